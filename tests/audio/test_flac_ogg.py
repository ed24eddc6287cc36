"""FLAC files whose header states fewer frames than there are: read whole and counted."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from epanns.audio.compressed import understated_total
from epanns.audio.waveform import load_waveform

RATE = 16_000


def flac(seconds: float, subtype: str = "PCM_16", channels: int = 1) -> bytes:
    written = BytesIO()
    tone = 0.5 * np.sin(np.arange(round(seconds * RATE)) / 5) + np.random.default_rng(0).normal(
        0, 0.01, round(seconds * RATE)
    )
    sf.write(written, np.repeat(tone[:, None], channels, axis=1), RATE, format="FLAC", subtype=subtype)
    return written.getvalue()


def stating(content: bytes, total: int) -> bytes:
    """The file with another total in its STREAMINFO."""
    return content[:21] + ((content[21] >> 4 << 36) | total).to_bytes(5, "big") + content[26:]


@pytest.fixture
def write(tmp_path):
    def write(content: bytes) -> Path:
        (tmp_path / "a.flac").write_bytes(content)
        return tmp_path / "a.flac"

    return write


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_beyond_the_stated_total_is_read_and_counted(write, subtype, channels):
    whole = flac(3, subtype, channels)
    expected = load_waveform(write(whole), sample_rate=RATE)
    assert (len(expected.samples), expected.n_beyond_header) == (3 * RATE, 0)
    found = load_waveform(write(stating(whole, RATE)), sample_rate=RATE)
    assert np.array_equal(found.samples, expected.samples)
    assert found.n_beyond_header == 2 * RATE
    part = load_waveform(write(stating(whole, RATE)), sample_rate=RATE, start=1.5, duration=1.0)
    assert np.array_equal(part.samples, expected.samples[RATE * 3 // 2 : RATE * 5 // 2])


def test_a_total_is_understated_from_one_frame_on():
    for seconds in (0.01, 0.3, 1.0, 2.7):
        whole = flac(seconds)
        total = round(seconds * RATE)
        assert understated_total(BytesIO(whole)) is None
        assert understated_total(BytesIO(whole + b"TAG" + bytes(125))) is None
        assert understated_total(BytesIO(stating(whole, 0))) is None, "an unknown length is legal"
        assert understated_total(BytesIO(stating(whole, total - 1)))[0] == total - 1


def test_bytes_that_look_like_a_frame_change_no_sample(write, monkeypatch):
    whole = flac(1)
    expected = load_waveform(write(whole), sample_rate=RATE)
    monkeypatch.setattr("epanns.audio.compressed._end_of_frame", lambda header, block_size: 10**9)
    found = load_waveform(write(whole), sample_rate=RATE)
    assert np.array_equal(found.samples, expected.samples)
    assert (found.n_beyond_header, found.states_length) == (0, True)


@pytest.mark.parametrize(
    "content", [b"", b"fLaC", b"fLaC\0\0\0\x22" + bytes(33), b"fLaC\x04\0\0\x22" + bytes(60), b"RIFF" * 30]
)
def test_other_files_are_left_to_the_decoder(content):
    assert understated_total(BytesIO(content)) is None
