import math
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from epanns.audio.waveform import load_encoded, load_waveform, waveform_stream
from epanns.errors import DataError

RATE = 32_000


def tone(seconds=1.0, rate=RATE, frequency=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    """Write samples to a file and return its path."""

    def run(name, samples, rate=RATE, **how):
        path = tmp_path / name
        soundfile.write(path, samples, rate, **how)
        return path

    return run


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
def test_formats_of_libsndfile_are_read_at_their_length(write, name):
    loaded = load_waveform(write(name, tone()), sample_rate=RATE)
    assert loaded.samples.shape == (RATE,)
    assert loaded.samples.dtype == np.float32
    assert np.abs(loaded.samples - tone()).max() < 0.05


def test_opus_is_read_at_another_rate(write):
    path = write("a.opus", tone(rate=48_000), 48_000, format="OGG", subtype="OPUS")
    assert load_waveform(path, sample_rate=RATE).samples.shape == (RATE,)


def test_stereo_is_the_mean_of_its_channels(write):
    left, right = tone(), tone(frequency=1000, level=0.25)
    path = write("a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(load_waveform(path, sample_rate=RATE).samples, (left + right) / 2, atol=1e-7)


def test_another_rate_is_resampled_as_by_soxr(write):
    source = tone(rate=44_100)
    path = write("a.wav", source, 44_100, subtype="FLOAT")
    expected = soxr.resample(source, 44_100, RATE, quality="HQ")
    np.testing.assert_array_equal(load_waveform(path, sample_rate=RATE).samples, expected)
    assert len(expected) == RATE


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_stream_gives_the_waveform_block_by_block(write, monkeypatch, name):
    samples = np.stack([1.2 * tone(2, 44_100), tone(2, 44_100, 1_000)], axis=1)
    path = write(name, samples, 44_100, **({"subtype": "FLOAT"} if name == "a.wav" else {}))
    whole = load_waveform(path, sample_rate=RATE)
    monkeypatch.setattr("epanns.audio.decoders._BLOCK_VALUES", 2_000)
    with waveform_stream(path, sample_rate=RATE) as stream:
        blocks = list(stream)
    assert len(blocks) > 40
    np.testing.assert_array_equal(np.concatenate(blocks), whole.samples)
    assert (stream.n_samples, stream.n_clipped) == (len(whole.samples), whole.n_clipped)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_memory_of_a_stream_does_not_grow_with_the_recording(write, monkeypatch, name):
    monkeypatch.setattr("epanns.audio.decoders._BLOCK_VALUES", 1 << 14)
    monkeypatch.setattr("epanns.audio.compressed._BLOCK", 1 << 12)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 60 * 16_000).astype(np.float32)
    peaks = []
    for seconds in (5, 60):
        path = write(name, samples[: seconds * 16_000], 16_000)
        tracemalloc.start()
        with waveform_stream(path, sample_rate=RATE) as stream:
            assert sum(map(len, stream)) > 0.99 * seconds * RATE
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 50_000  # 60 s of samples at 32 kHz are 7.7 MB


def test_a_stream_counts_all_nan_and_infinite_samples(write, monkeypatch):
    samples = tone(1)
    samples[[7, 20_000]] = np.nan
    monkeypatch.setattr("epanns.audio.decoders._BLOCK_VALUES", 1_000)
    path = write("a.wav", samples, subtype="FLOAT")
    with (
        waveform_stream(path, sample_rate=RATE) as stream,
        pytest.raises(DataError, match="2 of 32000 samples are NaN or infinite"),
    ):
        list(stream)


def test_samples_beyond_one_are_limited_and_counted(write):
    samples = tone()
    samples[[3, 5, 9]] = [1.5, -2.0, 1.0]
    loaded = load_waveform(write("a.wav", samples, subtype="FLOAT"), sample_rate=RATE)
    assert loaded.n_clipped == 2
    assert loaded.samples[[3, 5, 9]].tolist() == [1.0, -1.0, 1.0]


def test_a_part_is_cut_out_by_start_and_duration(write):
    samples = tone(3)
    loaded = load_waveform(write("a.wav", samples, subtype="FLOAT"), sample_rate=RATE, start=1.25, duration=0.5)
    np.testing.assert_array_equal(loaded.samples, samples[40_000:56_000])


def test_a_limit_bounds_the_decoding_and_changes_no_sample_within(write):
    path = write("a.wav", tone(5, 44_100), 44_100)
    whole = load_waveform(path, sample_rate=RATE).samples
    part = load_waveform(path, sample_rate=RATE, limit=2.0).samples
    assert len(part) == 2 * RATE
    np.testing.assert_array_equal(part, whole[: 2 * RATE])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples_are_refused(write, bad):
    samples = tone()
    samples[7] = bad
    path = write("a.wav", samples, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: 1 of 32000 samples are NaN or infinite; repair or remove"):
        load_waveform(path, sample_rate=RATE)


def test_float64_beyond_float32_is_refused(write):
    path = write("a.wav", np.array([0.0, 1e300]), subtype="DOUBLE")
    with pytest.raises(DataError, match="1 of 2 samples are NaN or infinite"):
        load_waveform(path, sample_rate=RATE)


def test_a_file_without_samples_is_refused(write):
    with pytest.raises(DataError, match=r"a\.wav: holds no samples; fetch the file again or remove it"):
        load_waveform(write("a.wav", np.zeros(0, np.float32)), sample_rate=RATE)


def test_a_file_of_less_than_a_sample_at_the_new_rate_is_refused(write):
    with pytest.raises(DataError, match="holds less than one sample at 8000 Hz"):
        load_waveform(write("a.wav", np.zeros(1, np.float32), 192_000), sample_rate=8_000)


@pytest.mark.parametrize("content", [b"RIFF", b"no sound at all" * 50], ids=["header", "text"])
def test_a_file_that_is_no_audio_is_refused(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    message = r"a\.wav: cannot be decoded \([\w ,.]*\); convert it to WAV or FLAC, or remove it$"
    with pytest.raises(DataError, match=message):
        load_waveform(path, sample_rate=RATE)
    with pytest.raises(DataError, match=message):
        load_encoded(content, "a.wav", sample_rate=RATE)


def test_a_file_of_raw_samples_is_refused(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"a\.raw: cannot be decoded"):
        load_waveform(tmp_path / "a.raw", sample_rate=RATE)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.wav: no such audio file; correct the path"):
        load_waveform(tmp_path / "gone.wav", sample_rate=RATE)


def test_a_folder_is_no_audio_file(tmp_path):
    with pytest.raises(DataError, match="is a folder, must be a regular file"):
        load_waveform(tmp_path, sample_rate=RATE)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.opus"])
def test_a_cut_file_is_refused(write, name, share):
    rng = np.random.default_rng(0)
    how = {"format": "OGG", "subtype": "OPUS"} if name.endswith("opus") else {}
    path = write(name, (0.1 * rng.standard_normal(48_000)).astype(np.float32), 48_000, **how)
    whole = path.read_bytes()
    path.write_bytes(whole[: math.floor(len(whole) * share)])
    with pytest.raises(DataError, match=rf"{name}: (truncated|cannot be decoded)"):
        load_waveform(path, sample_rate=RATE)


def test_many_channels_are_averaged(write):
    samples = np.stack([tone(frequency=100 * number) for number in range(1, 6)], axis=1)
    path = write("a.wav", samples, subtype="FLOAT")
    np.testing.assert_allclose(load_waveform(path, sample_rate=RATE).samples, samples.mean(axis=1), atol=1e-7)


def test_large_finite_samples_are_read(write):
    path = write("a.wav", np.full(10, 3e38, np.float32), subtype="FLOAT")
    assert load_waveform(path, sample_rate=RATE).n_clipped == 10


def test_only_kept_samples_count_as_clipped(write):
    samples = np.concatenate([tone(1), 3 * tone(1)])
    path = write("a.wav", samples, subtype="FLOAT")
    assert load_waveform(path, sample_rate=RATE, limit=1.0).n_clipped == 0
    assert load_waveform(path, sample_rate=RATE).n_clipped > 0


def test_a_clip_shorter_than_the_manifest_says_is_refused(write):
    with pytest.raises(DataError, match=r"truncated: 1\.00 s where the manifest promises 2\.00 s"):
        load_waveform(write("a.wav", tone(1)), sample_rate=RATE, duration=2.0)


def test_a_clip_that_begins_after_the_end_is_refused(write):
    with pytest.raises(DataError, match="start 3 s is after its end at 1 s"):
        load_waveform(write("a.wav", tone(1)), sample_rate=RATE, start=3.0)


def test_a_wav_header_of_unknown_length_is_not_truncated(write):
    path = write("a.wav", tone())
    content = bytearray(path.read_bytes())
    content[4:8] = b"\xff\xff\xff\xff"  # as programs leave it that write to a pipe
    path.write_bytes(content)
    assert load_waveform(path, sample_rate=RATE).samples.shape == (RATE,)


def test_real_ogg_files_are_whole(shared):
    for path in sorted((shared / "data" / "esc10").rglob("*.ogg"))[::80]:
        loaded = load_waveform(path, sample_rate=RATE)
        assert abs(len(loaded.samples) - 5 * RATE) <= 0.05 * RATE


def ogg_of(tmp_path):
    samples = 0.3 * np.sin(np.arange(8_000 * 4) / 5).astype(np.float32)
    soundfile.write(tmp_path / "whole.ogg", samples, 8_000, format="OGG", subtype="VORBIS")
    return (tmp_path / "whole.ogg").read_bytes()


def test_an_ogg_file_with_any_bit_changed_is_refused(tmp_path):
    """libsndfile skips a damaged page without an error."""
    whole, path = ogg_of(tmp_path), tmp_path / "flipped.ogg"
    rng = np.random.default_rng(0)
    for place in rng.integers(4, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="flipped.ogg: (damaged|truncated|holds several|cannot be decoded)"):
            load_waveform(path, sample_rate=8_000)


def test_chained_ogg_streams_are_refused(tmp_path):
    (tmp_path / "two.ogg").write_bytes(ogg_of(tmp_path) * 2)
    with pytest.raises(DataError, match="holds several Ogg streams in sequence, of which a decoder would"):
        load_waveform(tmp_path / "two.ogg", sample_rate=8_000)


@pytest.mark.parametrize("declared", [0x7FFFFFFF + 8, 0xFFFFFFFF, 0])
def test_a_wav_without_a_stated_length_is_read_completely(tmp_path, declared):
    soundfile.write(tmp_path / "a.wav", np.zeros(800, np.float32), 8_000, subtype="PCM_16")
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[:4] + declared.to_bytes(4, "little") + data[8:])
    assert len(load_waveform(tmp_path / "a.wav", sample_rate=8_000).samples) == 800
