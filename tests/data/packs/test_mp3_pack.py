import h5py
import numpy as np
import pytest

from epanns.audio.resampling import INT16_MAX
from epanns.audio.waveform import load_waveform
from epanns.data.packs import mp3_pack
from epanns.data.packs.mp3_pack import _COLLECTION, _OBJECT, REFERENCE, Mp3Pack, read_references, read_string
from epanns.data.packs.open_files import Stamp, read_at
from epanns.data.packs.pack import open_pack
from epanns.errors import ConfigError, PackError
from epanns.labels import LabelSet, audioset, fsd50k
from tests.data.elsewhere import read_elsewhere, read_here
from tests.data.mp3_file import CLASSES, encoded, write_mp3_file

LABELS = LabelSet.of([f"class {number}" for number in range(CLASSES)])
NAMES = ("Y--4gqARaEJE.mp3", "00/Yabcdefghijk.mp3", "zyxwvutsrqp.mp3", "64760.mp3", "dog/1.mp3")
TARGET = np.random.default_rng(0).random((5, CLASSES)) < 0.4


@pytest.fixture(scope="module")
def contents():
    return [
        encoded(0.5, 440),
        encoded(12.0, 300),
        encoded(1.0, 500, rate=44_100, channels=2),
        encoded(0.05, 800),
        encoded(1.0, 250, kind="WAV"),
    ]


@pytest.fixture
def file(tmp_path, contents):
    return write_mp3_file(tmp_path / "eval_mp3.hdf", NAMES, contents, TARGET)


def read(pack, index):
    out = np.full(pack.clip_samples, 7, np.int16)
    return pack.read_into(index, out), out


def test_names_and_targets_are_those_of_the_file(file):
    pack = open_pack(file, labels=LABELS)
    ids = [b"--4gqARaEJE", b"abcdefghijk", b"zyxwvutsrqp", b"64760.mp3", b"dog/1.mp3"]
    assert pack.columns.clip_ids.tolist() == ids
    np.testing.assert_array_equal(pack.columns.targets.dense(), TARGET)
    assert (len(pack), pack.sample_rate, pack.clip_samples, pack.dataset) == (5, 32_000, 320_000, "eval_mp3")
    assert pack.columns.n_samples.tolist() == [320_000] * 5
    assert pack.columns.crc32 is None
    assert len(pack.digest) == 64


@pytest.mark.parametrize(("rate", "seconds"), [(32_000, 10.0), (16_000, 0.75)])
def test_clips_equal_the_same_files_on_disk(tmp_path, file, contents, rate, seconds):
    pack = Mp3Pack(file, labels=LABELS, sample_rate=rate, seconds=seconds)
    for index, content in enumerate(contents):
        path = tmp_path / "clip"
        path.write_bytes(content)
        expected = load_waveform(path, sample_rate=rate).samples[: pack.clip_samples]
        n_samples, out = read(pack, index)
        assert n_samples == len(expected)
        assert np.abs(out[:n_samples] / INT16_MAX - expected).max() <= 0.51 / INT16_MAX
        assert not out[n_samples:].any()


def test_classes_are_identified_by_their_number(tmp_path, contents):
    for width, labels in ((527, audioset()), (200, fsd50k())):
        target = np.eye(5, width, k=width - 5, dtype=bool)
        pack = open_pack(write_mp3_file(tmp_path / "x.hdf", NAMES, contents, target))
        assert pack.labels == labels
        np.testing.assert_array_equal(pack.columns.targets.dense(), target)


def test_unknown_classes_must_be_given(file):
    with pytest.raises(
        PackError, match=r"eval_mp3\.hdf: has 9 to 16 classes and does not name them; give --labels FILE"
    ):
        open_pack(file)
    with pytest.raises(PackError, match=r"eval_mp3\.hdf: has 9 to 16 classes, the labels given are 527"):
        open_pack(file, labels=audioset())


@pytest.mark.parametrize(("width", "taken_to_be"), [(527, "AudioSet's"), (200, "FSD50K's")])
def test_classes_are_assumed_only_if_a_clip_has_the_last_and_a_remark_states_it(tmp_path, contents, width, taken_to_be):
    target = np.zeros((5, width), bool)
    target[1, width - 2] = True  # one class fewer would do
    path = write_mp3_file(tmp_path / "x.hdf", NAMES, contents, target)
    most = -(-width // 8) * 8
    message = rf"x\.hdf: has {most - 7} to {most} classes \(no clip has the last of {width}\) and does not name them"
    with pytest.raises(PackError, match=message):
        open_pack(path)
    others = LabelSet.numbered(width - 1)
    assert not any("assumed to be" in remark for remark in open_pack(path, labels=others).remarks)
    target[3, width - 1] = True
    remarks = open_pack(write_mp3_file(path, NAMES, contents, target)).remarks
    assert remarks[-1] == f"{path}: its {width} classes are assumed to be {taken_to_be}; --labels names others"


def test_bits_beyond_the_classes_are_refused(tmp_path, contents):
    target = np.zeros((5, 528), bool)
    target[2, 527] = True
    with pytest.raises(PackError, match="target: has bits set beyond its 527 classes"):
        open_pack(write_mp3_file(tmp_path / "x.hdf", NAMES, contents, target))


def test_a_clip_that_does_not_decode_is_reported(tmp_path, contents):
    broken = [b"no sound at all" * 20, *contents[1:]]
    pack = open_pack(write_mp3_file(tmp_path / "x.hdf", NAMES, broken, TARGET), labels=LABELS)
    with pytest.raises(PackError, match=r"clip '--4gqARaEJE': .*x\.hdf: row 0: its mp3: cannot be decoded"):
        read(pack, 0)
    assert read(pack, 1)[0] == 320_000


def test_a_row_that_was_never_written_is_refused(tmp_path, contents):
    path = write_mp3_file(tmp_path / "x.hdf", NAMES, [*contents[:3], b"", contents[4]], TARGET)
    with pytest.raises(PackError, match=r"x\.hdf: mp3: row 3 was never written"):
        open_pack(path, labels=LABELS)


def test_impossible_options_are_refused(file):
    with pytest.raises(ConfigError, match="sample_rate=1: must be a whole number in"):
        Mp3Pack(file, labels=LABELS, sample_rate=1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pack_can_be_passed_to_other_processes(file, method):
    pack = open_pack(file, labels=LABELS, sample_rate=8_000, seconds=0.5)
    assert read_elsewhere(pack, method) == read_here(pack)


def test_strings_of_any_length_come_back_as_hdf5_reads_them(tmp_path):
    """Short strings share a collection of the heap, long strings have one each, rewritten strings leave holes."""
    path = tmp_path / "strings.h5"
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 700, 300).tolist(), 4_080, 4_096, 5_000, 70_000, 1, 8, 16]
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("rows", shape=(len(lengths),), dtype=h5py.vlen_dtype(np.dtype("uint8")))
        for row in [*rng.permutation(len(lengths)), *rng.integers(0, len(lengths), 100)]:
            rows[row] = rng.integers(0, 256, lengths[row], dtype=np.uint8)
    with h5py.File(path) as file:
        references = read_references(file["rows"], path)
        expected = [value.tobytes() for value in file["rows"][...]]
    assert [read_string(path, reference, Stamp.of(path.stat())) for reference in references] == expected


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("length", 100, r"heap object at byte \d+: has \d+ bytes, its row has length 100"),
        ("object", 9, r"heap at byte \d+: has no object 9"),
        ("object", 0, r"heap at byte \d+: has no object 0"),
        ("collection", 96, "heap at byte 96: is no collection of HDF5 within the file"),
    ],
)
def test_a_wrong_reference_is_refused(file, field, value, message):
    with h5py.File(file) as opened:
        place = opened["mp3"].id.get_offset() + 3 * REFERENCE.itemsize + REFERENCE.fields[field][1]
    content = bytearray(file.read_bytes())
    size = REFERENCE[field].itemsize
    content[place : place + size] = value.to_bytes(size, "little")
    file.write_bytes(content)
    pack = open_pack(file, labels=LABELS)
    with pytest.raises(PackError, match=rf"clip '64760\.mp3': .*eval_mp3\.hdf: {message}"):
        read(pack, 3)
    assert read(pack, 2)[0] == 32_000


def test_a_file_that_changes_after_it_was_opened_is_refused(file, contents):
    pack = open_pack(file, labels=LABELS)
    write_mp3_file(file, NAMES, contents[::-1], TARGET)
    with pytest.raises(PackError, match=r"eval_mp3\.hdf: has changed since it was opened; start again"):
        read(pack, 0)


def test_a_collection_of_too_many_objects_is_not_read_to_its_end(tmp_path, monkeypatch):
    path = tmp_path / "heap"
    empty = np.zeros(100_000, _OBJECT)
    empty["number"] = 1
    header = np.zeros(1, _COLLECTION)
    header["signature"], header["version"], header["size"] = b"GCOL", 1, _COLLECTION.itemsize + empty.nbytes
    path.write_bytes(header.tobytes() + empty.tobytes())
    reads = []
    monkeypatch.setattr(mp3_pack, "read_at", lambda *what, **how: reads.append(1) or read_at(*what, **how))
    reference = np.array((8, 0, 2), REFERENCE)[()]
    with pytest.raises(PackError, match="heap at byte 0: has no object 2"):
        read_string(path, reference, Stamp.of(path.stat()))
    assert len(reads) <= 1 + (1 << 16)
