"""Codecs in which libsndfile cannot seek, or not exactly; FLAC files of unknown length."""

import io
import os

import numpy as np
import pytest
import soundfile

from epanns.audio.waveform import load_encoded, load_waveform
from epanns.errors import DataError

RATE = 8_000
SOUND = (0.5 * np.sin(np.arange(3 * RATE) / 5) * np.linspace(0.2, 1, 3 * RATE)).astype(np.float32)
CONTAINERS = sorted(set(soundfile.available_formats()) - {"RAW"})


class ReadForward(soundfile.SoundFile):
    """The slow twin: one read from the beginning, without any seek."""

    def seekable(self):
        return False


def codecs_of(container, path):
    """Write a file in each codec of a container that libsndfile can write."""
    for subtype in soundfile.available_subtypes(container):
        try:
            soundfile.write(path, SOUND, RATE, format=container, subtype=subtype)
        except soundfile.LibsndfileError:
            continue
        yield subtype


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_codec_is_decoded_whole_and_in_part(tmp_path, container):
    path = tmp_path / f"a.{container.lower()}"
    for subtype in codecs_of(container, path):
        with ReadForward(path) as file:
            rate, expected = file.samplerate, file.read(file.frames, dtype="float32")
        whole = load_waveform(path, sample_rate=rate).samples
        np.testing.assert_allclose(whole, expected.clip(-1, 1), atol=1e-6, err_msg=subtype)
        first, n_samples = round(0.37 * len(whole)), rate // 4
        for start, n_more in ((first, n_samples), (0, n_samples), (len(whole) - n_samples, n_samples)):
            part = load_waveform(path, sample_rate=rate, start=start / rate, duration=n_more / rate).samples
            np.testing.assert_allclose(part, whole[start : start + n_more], atol=1e-6, err_msg=subtype)
        with pytest.raises(DataError, match=r"start 30 s is after its end at "):
            load_waveform(path, sample_rate=rate, start=30.0)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_part_of_an_mp3_begins_as_the_whole_does(tmp_path, rate, mode):
    """After a seek libmpg123 lacks bits that earlier frames hold; up to 0.4 s came out wrong."""
    sound = 0.5 * np.sin(np.arange(4 * rate) / 5) * np.linspace(0.2, 1, 4 * rate)
    soundfile.write(tmp_path / "a.mp3", sound, rate, format="MP3", bitrate_mode=mode)
    whole = load_waveform(tmp_path / "a.mp3", sample_rate=rate).samples
    for start in (0.3, 1.7, 2.9):
        part = load_waveform(tmp_path / "a.mp3", sample_rate=rate, start=start, duration=0.5).samples
        np.testing.assert_allclose(part, whole[round(start * rate) :][: rate // 2], atol=1e-6)


@pytest.fixture(scope="module")
def streamed_flac():
    """The bytes of a FLAC file as FFmpeg writes it to a pipe: its header states 0 samples, which is 'unknown'."""
    av = pytest.importorskip("av", reason="needs the extra av")

    class Pipe:
        content = b""

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    pipe = Pipe()
    with av.open(pipe, "w", format="flac") as file:
        stream = file.add_stream("flac", rate=RATE, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray((SOUND * 32_767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        chunks = av.AudioResampler("s16", "mono", RATE, frame_size=4_096)
        for piece in [*chunks.resample(frame), *chunks.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    assert int.from_bytes(pipe.content[18:26], "big") % (1 << 36) == 0
    return pipe.content


def test_a_flac_of_unknown_length_is_decoded(tmp_path, streamed_flac):
    path = tmp_path / "a.flac"
    path.write_bytes(streamed_flac)
    expected = (SOUND * 32_767).astype(np.int16) / 32_768
    loaded = load_waveform(path, sample_rate=RATE)
    np.testing.assert_array_equal(loaded.samples, expected.astype(np.float32))
    assert not loaded.states_length
    part = load_waveform(path, sample_rate=RATE, start=1.5, duration=0.5).samples
    np.testing.assert_array_equal(part, loaded.samples[3 * RATE // 2 :][: RATE // 2])
    assert len(load_waveform(path, sample_rate=RATE, limit=0.25).samples) == RATE // 4
    with pytest.raises(DataError, match="start 3 s is after its end at 3 s"):
        load_waveform(path, sample_rate=RATE, start=3.0)
    with pytest.raises(DataError, match=r"truncated: 3\.00 s where the manifest promises 4\.00 s"):
        load_waveform(path, sample_rate=RATE, duration=4.0)


def test_a_flac_of_unknown_length_that_is_cut_in_a_frame_is_refused(streamed_flac):
    for kept in (len(streamed_flac) // 2, len(streamed_flac) - 1):
        with pytest.raises(DataError, match="a: cannot be decoded"):
            load_encoded(streamed_flac[:kept], "a", sample_rate=RATE)


def test_bytes_and_files_of_codecs_without_seeking_are_read_alike():
    file = io.BytesIO()
    soundfile.write(file, SOUND, RATE, format="WAV", subtype="GSM610")
    assert len(load_encoded(file.getvalue(), "a", sample_rate=RATE).samples) >= len(SOUND)


def test_a_name_that_is_not_utf_8_is_read(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(os.fsencode(path), SOUND, RATE, format="WAV")
    assert len(load_waveform(path, sample_rate=RATE).samples) == len(SOUND)
