"""Every container that libsndfile writes: whole files are read, truncated ones refused, further sound counted."""

import contextlib
import functools
import io
import struct
from itertools import product

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from epanns.audio.containers import DamagedFile, sound_bytes
from epanns.audio.waveform import load_encoded, load_waveform
from epanns.errors import DataError

N = 2_000
SOUND = 0.5 * np.sin(np.arange(N) / 5)
WITHOUT_LENGTH = {"IRCAM", "PAF", "PVF", "SD2", "XI"}  # libsndfile's XI states 0
RESAMPLED = {"WVE", "XI", "VOC", "SDS"}  # these know one rate, or few


def kinds(container):
    """Return (subtype, endianness) of each encoding that libsndfile lists for a container."""
    found = []
    for subtype, endian in product(soundfile.available_subtypes(container), ("FILE", "LITTLE", "BIG")):
        other_end = endian != "FILE" and subtype in ("PCM_16", "FLOAT", "IMA_ADPCM")
        if (endian == "FILE" or other_end) and soundfile.check_format(container, subtype, endian):
            found.append((subtype, endian))
    return found


def written(path, container, subtype, endian="FILE", samples=SOUND):
    """Return the bytes of a file, or None where libsndfile cannot write what it lists."""
    try:
        soundfile.write(path, samples, 8_000, format=container, subtype=subtype, endian=endian)
    except soundfile.LibsndfileError:
        return None
    return path.read_bytes()


CONTAINERS = sorted(set(soundfile.available_formats()) - {"RAW"})


@pytest.mark.parametrize("container", CONTAINERS)
def test_whole_files_are_read_whole_and_cut_ones_are_refused(tmp_path, container):
    path = tmp_path / f"a.{container.lower()}"
    n_kinds = 0
    for subtype, endian in kinds(container):
        content = written(path, container, subtype, endian)
        if content is None:
            continue
        n_kinds += 1
        loaded = load_waveform(path, sample_rate=8_000)
        assert loaded.n_beyond_header == 0
        assert loaded.states_length == (container not in WITHOUT_LENGTH)
        expected = soundfile.SoundFile(path).frames
        assert len(loaded.samples) == expected or container in RESAMPLED, (subtype, endian)
        if container in WITHOUT_LENGTH:
            continue
        for kept in (len(content) // 2, len(content) * 9 // 10, len(content) - 4):
            path.write_bytes(content[:kept])
            with pytest.raises(
                DataError, match=f"a.{container.lower()}: (truncated: .*; fetch the file|cannot be dec)"
            ):
                load_waveform(path, sample_rate=8_000)
    assert n_kinds


@pytest.mark.parametrize(("container", "subtype"), [("IRCAM", "PCM_16"), ("PAF", "PCM_24"), ("PVF", "PCM_32")])
def test_without_a_stated_length_a_frame_that_is_cut_is_refused(tmp_path, container, subtype):
    content = written(tmp_path / "a.x", container, subtype)
    message = rf"a\.x: truncated: the last frame of the {container} file is not whole; fetch the file again"
    (tmp_path / "a.x").write_bytes(content[:-1])
    with pytest.raises(DataError, match=message):
        load_waveform(tmp_path / "a.x", sample_rate=8_000)


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "SVX", "CAF", "AU"])
@pytest.mark.parametrize("stated", ["a quarter", "nothing", "all ones"])
def test_files_that_state_another_length_are_read_whole(tmp_path, container, stated):
    """Sound beyond the stated length is counted; a stand-in states no length."""
    path = tmp_path / "a.x"
    for subtype, endian in kinds(container):
        content = written(path, container, subtype, endian, np.tile(SOUND, 4))
        if content is None:
            continue
        whole = load_encoded(content, "a", sample_rate=8_000).samples
        sound = sound_bytes(io.BytesIO(content))
        place, n_bytes, n_uncounted = sound.size_place
        quarter = (sound.stop - sound.start) // 4 + n_uncounted
        length = {"a quarter": quarter, "nothing": 0, "all ones": (1 << 8 * n_bytes) - 1}[stated]
        changed = content[:place] + length.to_bytes(n_bytes, sound.byteorder) + content[place + n_bytes :]
        path.write_bytes(changed)
        loaded = load_waveform(path, sample_rate=8_000)
        np.testing.assert_allclose(loaded.samples[: len(whole)], whole, atol=1e-6, err_msg=f"{subtype} {endian}")
        assert len(loaded.samples) < len(whole) + 10
        if stated == "a quarter":  # codecs of blocks round it
            assert abs(loaded.n_beyond_header - 0.75 * len(whole)) <= 0.08 * len(whole)
        else:
            assert (loaded.n_beyond_header, loaded.states_length) == (0, False)


@pytest.mark.parametrize("container", ["AVR", "NIST", "WVE", "MPC2K"])
def test_sound_after_a_header_that_states_less_is_read_and_counted(tmp_path, container):
    path = tmp_path / "a.x"
    content = written(path, container, kinds(container)[0][0])
    path.write_bytes(content + content[-1_500:])
    loaded = load_waveform(path, sample_rate=8_000)
    n_more = 1_500 // (2 if container in ("MPC2K",) else 1)
    assert (len(loaded.samples), loaded.n_beyond_header) == (N + n_more, n_more)


SAMPLES = (32_767 * SOUND).astype("<i2").tobytes()


def wav(riff=None, data=None, *, before=b"", sound=SAMPLES, after=b""):
    """Return a WAV file of 16 bits at 8 kHz with any lengths and chunks."""
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 16_000, 2, 16)
    data = len(sound) if data is None else data
    body = b"WAVE" + fmt + before + b"data" + struct.pack("<I", data) + sound + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def chunk(name, content, length=None):
    return name + struct.pack("<I", len(content) if length is None else length) + content


def read(content):
    return load_encoded(content, "a.wav", sample_rate=8_000)


TAGS = {
    "nothing": b"",
    "LIST": chunk(b"LIST", b"INFO" + bytes(5_000)),
    "an odd chunk": chunk(b"LIST", b"INFO" + bytes(5_001)) + b"\0" + chunk(b"bext", bytes(3_000)),
    "a cut LIST": chunk(b"LIST", b"INFO" + bytes(5_000), 90_000),
    "unknown chunks": chunk(b"my01", b"\x55" * 9_000),
    "XMP": chunk(b"_PMX", b"<x:xmpmeta>" * 900) + chunk(b"3Dxx", b"\x55" * 2_000),
    "a few hundred bytes": b"\x55" * 700,
    "ID3": b"ID3\3\0\0" + b"\x55" * 9_000,
    "zeros": bytes(200_000),
}


@pytest.mark.parametrize("riff", [None, 0, 36, 8, len(SAMPLES) + 44, 0xFFFFFFFF, 0x7FFFF024])
@pytest.mark.parametrize("after", TAGS)
def test_the_size_of_the_file_in_the_first_header_does_not_matter(riff, after):
    loaded = read(wav(riff, after=TAGS[after]))
    np.testing.assert_array_equal(loaded.samples, read(wav()).samples)
    assert (loaded.n_beyond_header, loaded.states_length) == (0, True)
    with pytest.raises(DataError, match=r"a\.wav: truncated: 3998 bytes of sound where its WAV header promises 4000"):
        read(wav(riff, len(SAMPLES), sound=SAMPLES[:-2]))


@pytest.mark.parametrize("data", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x7F000000])
@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, 36])
@pytest.mark.parametrize("before", [b"", chunk(b"JUNK", bytes(28)), chunk(b"LIST", b"INFO" + bytes(3)) + b"\0"])
def test_a_stand_in_for_an_unknown_length_states_nothing(data, riff, before):
    loaded = read(wav(riff, data, before=before))
    np.testing.assert_array_equal(loaded.samples, read(wav()).samples)
    assert (loaded.n_beyond_header, loaded.states_length) == (0, False)


def long_wav(form, before):
    """Return a WAV file of the long forms, whose lengths are in a chunk "ds64"."""
    lengths = chunk(b"ds64", struct.pack("<QQQI", 0, len(SAMPLES), N, 0))
    content = wav(0xFFFFFFFF, 0xFFFFFFFF, before=before)
    return form + content[4:12] + lengths + content[12:]


@pytest.mark.parametrize("form", [b"RIFF", b"RF64", b"BW64"])
@pytest.mark.parametrize("name", [b"bext", b"iXML", b"LIST", b"PEAK", b"smpl", b"acid"])
@pytest.mark.parametrize("n_bytes", [27, 40])
def test_chunks_before_the_sound_do_not_matter(form, name, n_bytes):
    """By itself libsndfile opens no BW64, no RF64 with an odd chunk, and no WAV with such a PEAK, smpl or acid."""
    before = chunk(name, b"\x55" * n_bytes) + b"\0" * (n_bytes % 2)
    loaded = read(wav(before=before) if form == b"RIFF" else long_wav(form, before))
    np.testing.assert_array_equal(loaded.samples, read(wav()).samples)
    assert (loaded.n_beyond_header, loaded.states_length) == (0, True)


@pytest.mark.parametrize("data", [0x60000000, 0x90000000, 0xC0000000])
def test_a_large_length_is_no_stand_in(data):
    with pytest.raises(DataError, match="truncated: 4000 bytes of sound"):
        read(wav(data + 36, data))


def test_a_wav_without_sound_is_empty_whatever_follows():
    for after in ("nothing", "LIST", "an odd chunk", "zeros"):
        with pytest.raises(DataError, match="holds no samples"):
            read(wav(sound=b"", after=TAGS[after]))
    with pytest.raises(DataError, match="holds no samples"):
        read(wav(0xFFFFFFFF, 0xFFFFFFFF, sound=b""))


def test_sound_beyond_the_stated_length_is_read_at_any_place():
    content = wav(36 + 400, 400, sound=SAMPLES)
    loaded = read(content)
    np.testing.assert_array_equal(loaded.samples, read(wav()).samples)
    assert loaded.n_beyond_header == N - 200


def test_of_a_part_only_its_own_samples_count_as_beyond_the_header(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(36 + 1_600, 1_600))
    for start, duration, beyond in ((0.0, 0.05, 0), (0.05, 0.1, 400), (0.15, 0.1, 800)):
        loaded = load_waveform(tmp_path / "a.wav", sample_rate=8_000, start=start, duration=duration)
        assert (len(loaded.samples), loaded.n_beyond_header) == (round(8_000 * duration), beyond)
    assert load_waveform(tmp_path / "a.wav", sample_rate=8_000, limit=0.15).n_beyond_header == 400
    assert load_waveform(tmp_path / "a.wav", sample_rate=4_000).n_beyond_header == 600


def test_a_length_above_4_gib_wraps_around(tmp_path):
    """The true length is known then, so that chunks after the sound are not taken for sound."""
    content = wav(36 + 1_000, 1_000)
    path, stop = tmp_path / "a.wav", 44 + 1_000 + (1 << 32)
    with path.open("wb") as file:  # sparse
        file.write(content)
        file.truncate(stop)
        file.seek(stop)
        file.write(TAGS["LIST"])
    with path.open("rb") as file:
        found = sound_bytes(file)
    assert (found.start, found.stop, found.stated) == (44, stop, 1_000)
    part = load_waveform(path, sample_rate=8_000, start=0.05, duration=0.1)
    np.testing.assert_array_equal(part.samples, read(wav()).samples[400:1_200])
    assert part.n_beyond_header == 700


@pytest.mark.parametrize("after", [wav(), chunk(b"data", SAMPLES)], ids=["a WAV", "a data chunk"])
def test_a_second_sound_is_refused(after):
    with pytest.raises(DataError, match=r"a\.wav: holds a second WAV sound after the first one.*; split the file into"):
        read(wav(after=after))


@given(st.binary(max_size=200), st.sampled_from([b"RIFF....WAVE", b"RF64....WAVE", b"FORM....AIFF", b"caff\0\1\0\0"]))
def test_any_chunks_are_read_or_refused(junk, head):
    content = head + junk
    try:
        found = sound_bytes(io.BytesIO(content))
    except DamagedFile as error:
        assert str(error).startswith(("truncated: ", "holds a second "))
        return
    assert found is None or found.start <= found.stop <= max(found.start, len(content))
    with contextlib.suppress(DataError):
        load_encoded(content, "a", sample_rate=8_000)


HEADS = [
    b".snd",
    b"dns.",
    b"2BIT",
    b"NIST_1A\n   1024\n",
    b"ALawSoundFile**",
    b"\x01\x04",
    b"PVF1\n",
    b" paf",
    b"\xf0\x7e\0\1",
    b"\x64\xa3\1\0",
    b"Creative Voice File\x1a\x1a\0",
    b"Extended Instrument: " + bytes(280),
    bytes(20) + b"samplerate\0",
    b"MATLAB 5.0 MAT-file" + bytes(107) + b"IM",
]


@given(st.sampled_from(HEADS), st.binary(max_size=400))
def test_any_fixed_header_is_read_or_refused(head, junk):
    try:
        found = sound_bytes(io.BytesIO(head + junk))
    except DamagedFile as error:
        assert str(error).startswith("truncated: ")
        return
    assert found is None or found.start <= found.stop <= max(found.start, len(head + junk))
    with contextlib.suppress(DataError):
        load_encoded(head + junk, "a", sample_rate=8_000)


@functools.cache
def one_of_each_container():
    found = []
    for container in sorted(set(CONTAINERS) - {"SD2"}):
        file = io.BytesIO()
        soundfile.write(file, SOUND, 8_000, format=container)
        found.append(file.getvalue())
    return found


@given(st.integers(0, 99), st.lists(st.tuples(st.integers(0, 250), st.binary(min_size=1, max_size=8)), max_size=3))
def test_a_file_whose_header_was_changed_is_read_or_refused_in_one_line(number, changes):
    contents = one_of_each_container()
    content = bytearray(contents[number % len(contents)])
    for place, changed in changes:
        content[place : place + len(changed)] = changed
    try:
        loaded = load_encoded(bytes(content), "a", sample_rate=8_000, limit=5)
    except DataError as error:
        assert str(error).startswith("a: ")
        assert "\n" not in str(error)
    else:
        assert 0 <= loaded.n_beyond_header <= len(loaded.samples) <= 5 * 8_000
