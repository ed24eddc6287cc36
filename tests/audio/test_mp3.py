"""MP3s with and without a Xing header, at constant and varying bit rates, whole, truncated and joined."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from epanns.audio.compressed import FileBytes
from epanns.audio.compressed import mpeg_frames as frames_in
from epanns.audio.waveform import load_encoded, load_waveform
from epanns.errors import DataError

RATE = 44_100
DECODER_DELAY = 529  # samples that libsndfile drops at the beginning, with and without a note of LAME's
ENCODER_DELAY = 576  # samples that it drops besides where LAME's note tells it to
SOUNDS = ("tone", "noise", "silence first")


def mpeg_frames(content):
    return frames_in(FileBytes(io.BytesIO(content)))


def sound(kind, rate, seconds):
    n = round(rate * seconds)
    noise = 0.1 * np.random.default_rng(0).standard_normal(n)
    if kind == "tone":
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(n) / rate)
    return noise * (np.arange(n) >= n / 2) if kind == "silence first" else noise


def mp3(kind="noise", rate=RATE, channels=1, mode="VARIABLE", seconds=3.0):
    """Return the bytes that libsndfile's LAME makes, with its Xing header."""
    file = io.BytesIO()
    samples = np.stack([sound(kind, rate, seconds)] * channels, axis=1)
    soundfile.write(file, samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return file.getvalue()


def frame_lengths(content):
    """Return the bytes of each frame, counted by the formula of the standard: the slow twin."""
    lengths, position = [], 0
    while position < len(content):
        header = int.from_bytes(content[position : position + 4], "big")
        assert header >> 21 == 0x7FF
        version, bit_rate, code, padding = header >> 19 & 3, header >> 12 & 15, header >> 10 & 3, header >> 9 & 1
        rate = (44_100, 48_000, 32_000)[code] / {3: 1, 2: 2, 0: 4}[version]
        mpeg_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
        mpeg_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
        kbps = (mpeg_1 if version == 3 else mpeg_2)[bit_rate]
        lengths.append(int((144 if version == 3 else 72) * kbps * 1000 / rate) + padding)
        position += lengths[-1]
    assert position == len(content)
    return lengths


def split(content):
    """Return the frame with the Xing header, and all others."""
    length = frame_lengths(content)[0]
    assert b"Xing" in content[:length] or b"Info" in content[:length]
    return content[:length], content[length:]


def samples_of(content, rate=RATE):
    return load_encoded(content, "a.mp3", sample_rate=rate).samples


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050, 8_000])  # MPEG-1, 1, 2 and 2.5
@pytest.mark.parametrize("kind", SOUNDS)
def test_all_frames_are_read_without_a_xing_header(kind, rate, channels, mode):
    whole = mp3(kind, rate, channels, mode)
    note, sound_alone = split(whole)
    n_frames = len(frame_lengths(sound_alone))
    frames = mpeg_frames(sound_alone)
    assert (frames.start, frames.n_frames, frames.is_cut, frames.is_uniform) == (0, n_frames, False, True)
    with_note, without = samples_of(whole, rate), samples_of(sound_alone, rate)
    assert len(with_note) == 3 * rate
    assert len(without) == n_frames * (1152 if rate > 32_000 else 576) - DECODER_DELAY
    np.testing.assert_allclose(without[ENCODER_DELAY:][: 3 * rate], with_note, atol=1e-6)


@pytest.mark.parametrize("kind", SOUNDS)
def test_samples_without_a_xing_header_equal_ffmpegs(kind):
    av = pytest.importorskip("av", reason="needs the extra av")
    _, sound_alone = split(mp3(kind))
    with av.open(io.BytesIO(sound_alone), format="mp3") as file:
        expected = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    np.testing.assert_allclose(samples_of(sound_alone), expected[DECODER_DELAY:], atol=1e-5)


def test_files_and_their_bytes_are_read_alike(tmp_path):
    _, sound_alone = split(mp3())
    path = tmp_path / "a.mp3"
    path.write_bytes(sound_alone)
    np.testing.assert_array_equal(load_waveform(path, sample_rate=RATE).samples, samples_of(sound_alone))


def test_a_part_without_a_xing_header_is_cut_out_by_start_and_duration(tmp_path):
    _, sound_alone = split(mp3("silence first"))
    path = tmp_path / "a.mp3"
    path.write_bytes(sound_alone)
    part = load_waveform(path, sample_rate=RATE, start=2.0, duration=0.5).samples
    np.testing.assert_allclose(part, samples_of(sound_alone)[2 * RATE :][: RATE // 2], atol=1e-5)
    with pytest.raises(DataError, match="start 4 s is after its end at 3"):
        load_waveform(path, sample_rate=RATE, start=4.0)
    with pytest.raises(DataError, match=r"truncated: 3\.\d+ s where the manifest promises 4\.00 s"):
        load_waveform(path, sample_rate=RATE, duration=4.0)


def id3v2(size):
    return b"ID3\3\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


def test_tags_around_the_frames_change_nothing():
    _, sound_alone = split(mp3())
    picture = sound_alone[:5_000]  # frames that are no sound
    ape = picture + b"APETAGEX" + struct.pack("<III", 2000, len(picture) + 32, 1) + bytes(12)
    tagged = id3v2(2_000) + sound_alone + ape + b"TAG" + bytes(125)
    np.testing.assert_array_equal(samples_of(tagged), samples_of(sound_alone))
    assert mpeg_frames(tagged).n_frames == mpeg_frames(sound_alone).n_frames


def with_note(kind, sound_alone, count):
    header = sound_alone[:1] + b"\xfb\x90" + sound_alone[3:4]  # 128 kbit/s at 44.1 kHz: 417 bytes
    notes = {
        "VBRI": bytes(32) + b"VBRI" + struct.pack(">HHHII", 1, 0, 50, 0, count),
        "Xing without a count": bytes(17) + b"Xing" + struct.pack(">I", 0),
        "Xing": bytes(17) + b"Xing" + struct.pack(">II", 1, count),
    }
    return (header + notes[kind]).ljust(417, b"\0") + sound_alone


@pytest.mark.parametrize("kind", ["VBRI", "Xing without a count", "Xing"])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_xing_headers_that_state_nothing_or_too_little_are_ignored(kind, share):
    _, sound_alone = split(mp3())
    count = int(share * len(frame_lengths(sound_alone)))
    np.testing.assert_array_equal(samples_of(with_note(kind, sound_alone, count)), samples_of(sound_alone))


def test_joined_files_are_all_decoded():
    """The Xing header of the first file counts its own frames only; the other frames are beyond it."""
    one = mp3()
    joined = load_encoded(one + id3v2(3_000) + one, "a.mp3", sample_rate=RATE)
    np.testing.assert_array_equal(joined.samples[: 3 * RATE], samples_of(one))
    assert abs(len(joined.samples) - 6 * RATE) < 4 * 1152
    assert abs(joined.n_beyond_header - 3 * RATE) < 4 * 1152


def test_only_a_xing_header_states_a_length(tmp_path):
    note, sound_alone = split(mp3())
    n_frames = len(frame_lengths(sound_alone))
    contents = {
        "its note": (note + sound_alone, True),
        "none": (sound_alone, False),
        "VBRI": (with_note("VBRI", sound_alone, n_frames), True),
        "a note without a count": (with_note("Xing without a count", sound_alone, 0), False),
        "a count not filled in": (with_note("Xing", sound_alone, 0), False),
    }
    for name, (content, states_length) in contents.items():
        loaded = load_encoded(content, "a.mp3", sample_rate=RATE)
        assert (loaded.states_length, loaded.n_beyond_header) == (states_length, 0), name
    (tmp_path / "a.mp3").write_bytes(with_note("Xing", sound_alone, n_frames // 2))
    part = load_waveform(tmp_path / "a.mp3", sample_rate=RATE, start=2.0, duration=0.5)
    assert (part.states_length, part.n_beyond_header) == (True, RATE // 2)


def test_zeros_before_the_frames_change_nothing():
    for content in (mp3(), split(mp3())[1]):
        np.testing.assert_array_equal(samples_of(bytes(3_000) + content), samples_of(content))


def test_other_mpeg_layers_state_no_length():
    """Of MPEG-1 layer II libsndfile computes a length from the file's size."""
    frame = b"\xff\xfd\x80\xc0".ljust(144 * 128_000 // 44_100, b"\0")  # 128 kbit/s, mono: silence
    loaded = load_encoded(frame * 40, "a.mp2", sample_rate=RATE)
    assert (len(loaded.samples), loaded.states_length) == (40 * 1152, False)


def test_a_file_cut_in_a_frame_is_refused():
    note, sound_alone = split(mp3())
    lengths = frame_lengths(sound_alone)
    inside = sum(lengths[:50]) + 1
    for missing in range(3):
        with pytest.raises(DataError, match=r"a\.mp3: truncated: the file ends inside an MPEG frame; fetch the file"):
            samples_of(sound_alone[: inside + missing])
    message = rf"a\.mp3: truncated: 50 MPEG frames where its header promises {len(lengths)}; fetch the file again"
    with pytest.raises(DataError, match=message):
        samples_of((note + sound_alone)[: len(note) + inside])
    with pytest.raises(DataError, match=rf"{len(lengths) - 1} MPEG frames where its header promises {len(lengths)}"):
        samples_of((note + sound_alone)[:-1])


def test_a_file_cut_between_frames_is_refused_by_its_xing_header_or_the_manifest(tmp_path):
    note, sound_alone = split(mp3())
    between = sum(frame_lengths(sound_alone)[:50])
    with pytest.raises(DataError, match=r"truncated: 1\.\d+ s where its header promises 3\.00 s; fetch the file again"):
        samples_of((note + sound_alone)[: len(note) + between])
    assert len(samples_of(sound_alone[:between])) == 50 * 1152 - DECODER_DELAY  # nothing shows that it is cut
    path = tmp_path / "a.mp3"
    path.write_bytes(sound_alone[:between])
    with pytest.raises(DataError, match=r"truncated: 1\.\d+ s where the manifest promises 3\.00 s"):
        load_waveform(path, sample_rate=RATE, duration=3.0)


@pytest.mark.parametrize("other", [{"rate": 48_000}, {"rate": 22_050}, {"channels": 2}])
def test_a_changing_sample_rate_or_number_of_channels_is_refused(other):
    _, one = split(mp3())
    _, two = split(mp3(**other))
    for content in (one + two, two + one):
        with pytest.raises(DataError, match="cannot be decoded .its sample rate or number of channels changes within"):
            samples_of(content)


NO_HEADERS = st.binary(max_size=1_000).map(lambda junk: junk.replace(b"\xff", b"\xfe").replace(b"ID3", b""))
FRAMES = split(mp3(seconds=0.2))[1]


@given(st.lists(NO_HEADERS, min_size=1, max_size=4))
def test_frames_are_found_after_other_bytes(between):
    content = b"".join(FRAMES + junk for junk in between)
    assert mpeg_frames(content).n_frames == len(between) * len(frame_lengths(FRAMES))


@given(
    st.lists(
        st.sampled_from([b"\xff", b"\xff\xfb\x90\x00", b"ID3", b"ID3\3\0\x10", b"APETAGEX", FRAMES[:500], b"\0" * 32])
    )
)
def test_any_bytes_are_counted_without_an_error(parts):
    content = b"".join(parts)
    frames = mpeg_frames(content)
    assert frames is None or 0 < frames.n_frames <= len(content) / 24


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(-400, 400), st.integers(-400, 400))), st.integers(1, 50))
def test_bytes_of_a_file_are_sliced_like_bytes(content, parts, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epanns.audio.compressed._BLOCK", block)
        found = FileBytes(io.BytesIO(content))
        assert len(found) == len(content)
        for start, stop in parts:
            assert found[start:stop] == content[start:stop]
        assert found[:-3] + found[-3:] == content


def test_frames_are_found_across_blocks(monkeypatch):
    _, sound_alone = split(mp3(seconds=0.5))
    content = b"\xff" * 40 + sound_alone + b"junk" * 30 + sound_alone
    whole = mpeg_frames(content)
    for block in (*range(2, 40), 1_000):
        monkeypatch.setattr("epanns.audio.compressed._BLOCK", block)
        assert mpeg_frames(content) == whole
