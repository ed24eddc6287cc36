"""Containers that libsndfile cannot open; those of the first tests are encoded by PyAV itself."""

import sys

import numpy as np
import pytest

from epanns.audio.waveform import AUDIO_SUFFIXES, load_encoded, load_waveform
from epanns.errors import DataError

RATE = 32_000


def tone(seconds, rate):
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def encode(tmp_path):
    """Write ``(channels, samples)`` with PyAV and return the file's path."""
    av = pytest.importorskip("av", reason="needs the extra av")

    def run(name, samples, rate, *, codec, fast_start=False):
        path = tmp_path / name
        layout = "mono" if len(samples) == 1 else "stereo"
        options = {"movflags": "faststart"} if fast_start else {}
        with av.open(str(path), "w", options=options) as file:
            stream = file.add_stream(codec, rate=rate)
            stream.layout = layout
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            for part in av.AudioResampler(stream.format.name, layout, rate).resample(frame):
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
        return path

    return run


KINDS = [
    ("a.m4a", "aac", 44_100),
    ("a.mp4", "aac", 48_000),
    ("a.mov", "aac", 44_100),
    ("a.webm", "libopus", 48_000),
    ("a.mka", "flac", 44_100),
    ("a.mkv", "aac", 48_000),
]


@pytest.mark.parametrize(("name", "codec", "rate"), KINDS)
def test_containers_are_decoded_without_shift_and_at_their_length(encode, name, codec, rate):
    path = encode(name, tone(3.0, rate)[None], rate, codec=codec)
    assert path.suffix in AUDIO_SUFFIXES
    loaded = load_waveform(path, sample_rate=RATE)
    assert abs(len(loaded.samples) - 3 * RATE) <= 0.01 * RATE
    inner = slice(RATE // 2, 5 * RATE // 2)
    # FFmpeg's encoder adds up to 0.1; half a millisecond out of step would be 0.5
    assert np.std(loaded.samples[inner] - tone(3.0, RATE)[inner]) < 0.1


@pytest.mark.parametrize(("name", "codec", "rate"), KINDS)
def test_bytes_and_files_are_read_alike(encode, name, codec, rate):
    path = encode(name, tone(1.0, rate)[None], rate, codec=codec)
    of_file, of_bytes = load_waveform(path, sample_rate=RATE), load_encoded(path.read_bytes(), "x", sample_rate=RATE)
    np.testing.assert_array_equal(of_file.samples, of_bytes.samples)


def test_a_part_is_cut_out_by_start_and_duration(encode):
    path = encode("a.mka", tone(3.0, RATE)[None], RATE, codec="flac")
    whole = load_waveform(path, sample_rate=RATE).samples
    part = load_waveform(path, sample_rate=RATE, start=1.25, duration=0.5).samples
    np.testing.assert_array_equal(part, whole[40_000:56_000])
    first = load_waveform(path, sample_rate=RATE, limit=1.0).samples
    np.testing.assert_array_equal(first, whole[:RATE])


def test_channels_are_averaged(encode):
    left, right = tone(1.0, RATE), np.zeros(RATE, np.float32)
    path = encode("a.mka", np.stack([left, right]), RATE, codec="flac")
    np.testing.assert_allclose(load_waveform(path, sample_rate=RATE).samples, left / 2, atol=1e-4)


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus"), ("a.mka", "flac")])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_file_is_refused_by_its_header(encode, name, codec, share):
    path = encode(name, tone(3.0, 48_000)[None], 48_000, codec=codec, fast_start=True)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=rf"{name}: (truncated: .* its header promises 3\.0|cannot be decoded)"):
        load_waveform(path, sample_rate=RATE)


def test_a_truncated_file_with_its_index_at_the_end_is_refused(encode):
    path = encode("a.m4a", tone(1.0, 44_100)[None], 44_100, codec="aac")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a\.m4a: cannot be decoded .*convert it to WAV or FLAC"):
        load_waveform(path, sample_rate=RATE)


def test_a_start_past_the_end_is_refused(encode):
    path = encode("a.m4a", tone(1.0, 44_100)[None], 44_100, codec="aac")
    with pytest.raises(DataError, match="start 3 s is after its end at 1"):
        load_waveform(path, sample_rate=RATE, start=3.0)


def test_a_video_without_sound_is_refused(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra av")
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        for number in range(3):
            frame = av.VideoFrame(16, 16, "yuv420p")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(DataError, match=r"a\.mp4: MP4 \(m4a, mov\) without an audio stream; remove it"):
        load_waveform(tmp_path / "a.mp4", sample_rate=RATE)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x1cftypM4A ", r"MP4 \(m4a, mov\)"),
        (b"\0\0\0\x08wide\0\x0f", r"MP4 \(m4a, mov\)"),  # as older QuickTime files begin
        (b"\0\x0f\x00\0moov\0\0", r"MP4 \(m4a, mov\)"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81", r"Matroska \(mkv, webm\)"),
        (bytes.fromhex("3026b2758e66cf11a6d900aa"), r"ASF \(wma\)"),
        (b"\xff\xf1P@&\xdf\xfc", "AAC"),
        (b"#!AMR\n", "AMR"),
    ],
)
def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch, head, kind):
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "a.m4a"
    path.write_bytes(head + bytes(500))
    message = rf'a\.m4a: {kind} needs PyAV: pip install -e "\.\[av\]" in the source folder of epanns; or convert it'
    with pytest.raises(DataError, match=message):
        load_waveform(path, sample_rate=RATE)
