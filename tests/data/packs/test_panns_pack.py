import multiprocessing
import os
import re
import shutil

import h5py
import numpy as np
import pytest

from epanns.data.packs import panns_file
from epanns.data.packs.pack import open_pack
from epanns.errors import PackError
from epanns.labels import LabelSet, audioset
from tests.data.elsewhere import read_elsewhere, read_here
from tests.data.panns_files import CLASSES, SAMPLES, clip_names, target_of, waveform_of, write_index, write_waveforms

LABELS = LabelSet.of([f"class {number}" for number in range(CLASSES)])
NAMES = clip_names(7)


def read_all(pack):
    waveforms = np.empty((len(pack), pack.clip_samples), np.int16)
    assert [pack.read_into(index, waveforms[index]) for index in range(len(pack))] == [pack.clip_samples] * len(pack)
    return waveforms


def ids_of(names):
    return [name[1:-4].encode() for name in names]


def assert_holds(pack, names):
    """The pack has exactly these clips, in this order."""
    assert pack.columns.clip_ids.tolist() == ids_of(names)
    np.testing.assert_array_equal(read_all(pack), [waveform_of(name) for name in names])
    np.testing.assert_array_equal(pack.columns.targets.dense(), [target_of(name) for name in names])
    assert pack.columns.n_samples.tolist() == [SAMPLES] * len(names)
    assert pack.columns.crc32 is None


@pytest.fixture
def file(tmp_path):
    return write_waveforms(tmp_path / "waveforms" / "eval.h5", NAMES)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"compression": "gzip"},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"chunks": (3, 20)},
        {"chunks": (1, SAMPLES), "compression": "gzip", "fletcher32": True},
    ],
)
def test_a_waveform_file_is_read_unchanged(tmp_path, how):
    pack = open_pack(write_waveforms(tmp_path / "eval.h5", NAMES, **how), labels=LABELS)
    assert_holds(pack, NAMES)
    assert (pack.sample_rate, pack.clip_samples, pack.dataset, pack.n_empty) == (32_000, SAMPLES, "eval", 0)
    pack.close()
    assert_holds(pack, NAMES)


@pytest.mark.parametrize(("rate", "expected"), [(16_000, 16_000), (None, 32_000)])
def test_the_sample_rate_is_an_attribute_or_pannss_own(tmp_path, rate, expected):
    assert open_pack(write_waveforms(tmp_path / "x.h5", NAMES, sample_rate=rate), labels=LABELS).sample_rate == expected


@pytest.mark.parametrize("how", [{}, {"chunks": (1, SAMPLES), "compression": "gzip"}])
def test_rows_that_panns_left_empty_are_left_out_and_counted(tmp_path, how):
    missing = {NAMES[0], NAMES[3]}
    kept = [name for name in NAMES if name not in missing]
    pack = open_pack(write_waveforms(tmp_path / "x.h5", NAMES, missing=missing, **how), labels=LABELS)
    assert_holds(pack, kept)
    assert pack.n_empty == 2


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_targets_may_be_bytes(tmp_path, file, dtype):
    with h5py.File(file, "r+") as opened:
        values = opened["target"][...]
        del opened["target"]
        opened["target"] = values.astype(dtype)
    assert_holds(open_pack(file, labels=LABELS), NAMES)


def test_names_without_a_youtube_id_are_unchanged(tmp_path):
    names = ["fold1/Yx.wav", "Yclip-000001.flac", "17.wav"]
    pack = open_pack(write_waveforms(tmp_path / "x.h5", names), labels=LABELS)
    assert pack.columns.clip_ids.tolist() == [name.encode() for name in names]


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path):
    second = write_waveforms(tmp_path / "parts" / "part01.h5", clip_names(3, first=10))
    write_waveforms(second.with_name("part00.h5"), NAMES)
    (second.parent / "readme.txt").touch()
    pack = open_pack(second.parent, labels=LABELS)
    assert_holds(pack, NAMES + clip_names(3, first=10))
    assert pack.dataset == "parts"


def test_527_classes_are_audiosets(tmp_path, file):
    with h5py.File(file, "r+") as opened:
        del opened["target"]
        opened["target"] = np.eye(7, 527, dtype=bool)
    pack = open_pack(file)
    assert pack.labels == audioset()
    assert pack.remarks[-1] == f"{file}: its 527 classes are assumed to be AudioSet's; --labels names others"


def test_unknown_classes_must_be_given(file):
    with pytest.raises(PackError, match=r"eval\.h5: has 6 classes and does not name them; give --labels FILE\.csv"):
        open_pack(file)
    with pytest.raises(PackError, match=r"eval\.h5: has 6 classes, the labels given are 527; give its own"):
        open_pack(file, labels=audioset())


@pytest.fixture
def layout(tmp_path):
    """PANNs' own folders: `waveforms` and `indexes`, parts one level deeper, and an index over all of them."""
    root = tmp_path / "hdf5s"
    files = [
        write_waveforms(root / "waveforms" / "balanced_train.h5", NAMES, missing={NAMES[2]}),
        write_waveforms(root / "waveforms" / "unbalanced_train" / "part00.h5", clip_names(4, first=20)),
    ]
    write_index(root / "indexes" / "balanced_train.h5", files[:1])
    write_index(root / "indexes" / "unbalanced_train" / "part00.h5", files[1:])
    write_index(root / "indexes" / "full_train.h5", files[::-1])
    return root


def test_an_index_of_another_machine_finds_its_files(layout):
    balanced = [name for name in NAMES if name != NAMES[2]]
    expected = {"balanced_train": balanced, "unbalanced_train/part00": clip_names(4, first=20)}
    expected["full_train"] = clip_names(4, first=20) + balanced
    for name, names in expected.items():
        pack = open_pack(layout / "indexes" / f"{name}.h5", labels=LABELS)
        assert_holds(pack, names)
        assert pack.n_empty == ("part" not in name)


def test_the_folder_above_is_refused_with_the_index_files(layout):
    with pytest.raises(PackError, match=r"hdf5s: holds PANNs' folders; name one of the index files in "):
        open_pack(layout)


def test_an_index_of_some_rows_in_another_order(layout):
    path = layout / "indexes" / "full_train.h5"
    chosen = [9, 0, 4, 5]
    with h5py.File(path, "r+") as index:
        for name in list(index):
            values = index[name][...][chosen]
            del index[name]
            index[name] = values
    names = [(clip_names(4, first=20) + NAMES)[row] for row in chosen]
    assert_holds(open_pack(path, labels=LABELS), names)


def test_waveform_files_can_be_beside_the_index(tmp_path, layout):
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(layout / "waveforms" / "balanced_train.h5", flat / "balanced_train.h5")
    shutil.copy(layout / "indexes" / "balanced_train.h5", flat / "index.h5")
    assert len(open_pack(flat / "index.h5", labels=LABELS)) == 6


def edit(path, name, change):
    """Change the values of a dataset."""
    with h5py.File(path, "r+") as file:
        values = file[name][...]
        change(values)
        file[name][...] = values


def set_row(row, value):
    def change(values):
        values[row] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hdf5_path", set_row(1, b"/x/other.h5"), "names the waveform file 'other.h5', which is neither in"),
        ("hdf5_path", set_row(1, b"../../../etc/passwd"), "names the waveform file 'passwd', which is neither"),
        ("hdf5_path", set_row(1, b"/x/.."), "names the waveform file '..', which is neither"),
        ("hdf5_path", set_row(1, b""), "names the waveform file '', which is neither"),
        ("hdf5_path", set_row(1, b"C:\\a\\balanced_train.h5"), "hdf5_path: names two files 'balanced_train.h5'"),
        ("index_in_hdf5", set_row(1, 7), "index_in_hdf5: names rows beyond the 7 of"),
        ("index_in_hdf5", set_row(1, -1), "index_in_hdf5: names rows beyond the 7 of"),
        ("index_in_hdf5", set_row(1, 0), "row 1: is 'Yclip-000001.wav', the row it names in"),
        ("audio_name", set_row(1, b"x"), "row 1: is 'x', the row it names in"),
        ("target", set_row(1, True), "target: differs from that of"),
    ],
)
def test_an_index_that_contradicts_its_files_is_refused(layout, name, change, message):
    path = layout / "indexes" / "balanced_train.h5"
    edit(path, name, change)
    with pytest.raises(PackError, match=rf"indexes/balanced_train\.h5: {re.escape(message)}"):
        open_pack(path, labels=LABELS)


def test_a_waveform_file_in_two_places_is_refused(layout):
    shutil.copytree(layout / "waveforms" / "unbalanced_train", layout / "waveforms" / "copy")
    with pytest.raises(PackError, match=r"'part00\.h5', which could be .*copy/part00\.h5 and .*part00\.h5; remove one"):
        open_pack(layout / "indexes" / "full_train.h5", labels=LABELS)


def test_a_clip_in_two_files_is_refused(tmp_path):
    for name in ("a.h5", "b.h5"):
        write_waveforms(tmp_path / "parts" / name, NAMES[3:4])
    with pytest.raises(PackError, match="parts: clip 'clip-000003' is repeated"):
        open_pack(tmp_path / "parts", labels=LABELS)


def test_files_that_differ_are_not_joined(tmp_path):
    write_waveforms(tmp_path / "parts" / "a.h5", NAMES)
    write_waveforms(tmp_path / "parts" / "b.h5", clip_names(2, first=9), sample_rate=16_000)
    with pytest.raises(PackError, match=r"a\.h5 and .*b\.h5 differ: sample_rate 32000 and 16000; open them apart"):
        open_pack(tmp_path / "parts", labels=LABELS)


def test_a_file_without_a_clip_is_refused(tmp_path):
    path = write_waveforms(tmp_path / "x.h5", NAMES, missing=set(NAMES))
    with pytest.raises(PackError, match=r"x\.h5: .*(never written|no sound was packed)"):
        open_pack(path, labels=LABELS)


def test_labels_without_a_name_are_refused(file):
    edit(file, "audio_name", set_row(3, b""))
    with pytest.raises(PackError, match=r"eval\.h5: audio_name: row 3 has labels and no name"):
        open_pack(file, labels=LABELS)


@pytest.mark.parametrize("how", [{}, {"compression": "gzip"}])
@pytest.mark.parametrize("opened_before", [False, True])
def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path, how, opened_before):
    path = write_waveforms(tmp_path / "x.h5", NAMES, **how)
    pack = open_pack(path, labels=LABELS)
    if opened_before:
        read_all(pack)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    changed = path.stat().st_mtime_ns + 1_000_000
    path.write_bytes(content)
    os.utime(path, ns=(changed, changed))
    with pytest.raises(PackError, match=r"clip 'clip-000002': .*x\.h5: has changed since it was opened; start again"):
        pack.read_into(2, np.empty(SAMPLES, np.int16))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("how", [{}, {"compression": "lzf"}])
def test_a_pack_can_be_passed_to_other_processes(tmp_path, how, method):
    pack = open_pack(write_waveforms(tmp_path / "x.h5", NAMES, **how), labels=LABELS)
    assert read_elsewhere(pack, method) == read_here(pack)


def test_digests_of_different_packs_differ(tmp_path, file):
    digest = open_pack(file, labels=LABELS).digest
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert open_pack(shutil.copy(file, tmp_path / "copy.h5"), labels=LABELS).digest == digest
    edit(file, "target", lambda values: np.logical_not(values, out=values))
    assert open_pack(file, labels=LABELS).digest != digest


def test_forked_processes_open_the_file_for_themselves(tmp_path, monkeypatch):
    """A handle of HDF5 must not be used on both sides of a fork, not even for one reading."""
    pack = open_pack(write_waveforms(tmp_path / "x.h5", NAMES, compression="gzip"), labels=LABELS)
    expected = read_here(pack)
    opened = []
    monkeypatch.setattr(
        panns_file.h5py, "File", lambda *what, original=h5py.File, **how: opened.append(1) or original(*what, **how)
    )
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)

    def read(connection):
        together.wait(30)
        connection.send((read_here(pack), len(opened)))

    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    children = [context.Process(target=read, args=(theirs,)) for _, theirs in pipes]
    for child in children:
        child.start()
    assert [ours.recv() for ours, _ in pipes] == [(expected, 1)] * 2
    for child in children:
        child.join()
    assert read_here(pack) == expected
    assert not opened
