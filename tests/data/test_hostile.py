"""Hostile files of every format: each attack on each dataset gives `PackError`."""

import os
import shutil

import h5py
import numpy as np
import pytest

from epanns.data.packs.pack import open_pack
from epanns.errors import PackError
from epanns.labels import LabelSet
from tests.data import mp3_file, panns_files

SECRET = b"secret" * 100_000


@pytest.fixture
def formats(own, tmp_path):
    """For each format: the path to open, the file to attack, and its number of classes."""
    waveforms = panns_files.write_waveforms(tmp_path / "waveforms" / "x.h5", panns_files.clip_names(5))
    index = panns_files.write_index(tmp_path / "indexes" / "x.h5", [waveforms])
    contents = [mp3_file.encoded(0.1, 400)] * 3
    mp3 = mp3_file.write_mp3_file(tmp_path / "x.hdf", "abc", contents, np.eye(3, mp3_file.CLASSES))
    return {
        "ours": (own / "pack", own / "pack" / "shard-00001.h5", 4),
        "panns": (waveforms, waveforms, panns_files.CLASSES),
        "index": (index, index, panns_files.CLASSES),
        "mp3": (mp3, mp3, mp3_file.CLASSES),
    }


def read_all(path, classes):
    pack = open_pack(path, labels=LabelSet.numbered(classes))
    waveform = np.empty(pack.clip_samples, np.int16)
    return len(pack.columns.clip_ids), [pack.read_into(index, waveform) for index in range(len(pack))]


def soft_link(file, name, values, folder):
    """A link to the dataset's own values: harmless, but refused like every link."""
    file["hidden"] = values
    file[name] = h5py.SoftLink("/hidden")


def external_link(file, name, values, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other[name] = values
    file[name] = h5py.ExternalLink("other.h5", f"/{name}")


def virtual(file, name, values, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other[name] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(str(folder / "other.h5"), name, values.shape)
    file.create_virtual_dataset(name, layout)


def external_storage(file, name, values, folder):
    (folder / "secret").write_bytes(SECRET)
    file.create_dataset(name, values.shape, values.dtype, external=[(str(folder / "secret"), 0, len(SECRET))])


def named_type(file, name, values, folder):
    file["type"] = values.dtype
    file.create_dataset(name, data=values, dtype=file["type"])
    del file["type"]


def group(file, name, values, folder):
    file.create_group(name)


def attribute(file, name, values, folder):
    file[name] = values
    file[name].attrs["note"] = 1


def extra_object(file, name, values, folder):
    file[name] = values
    file["extra"] = [1]


def root_attribute(file, name, values, folder):
    file[name] = values
    file.attrs["note"] = 1


def bomb(file, name, values, folder):
    """A few bytes that declare a terabyte."""
    file.create_dataset(name, (1 << 20, 1 << 20), np.int8, chunks=(1 << 10, 1 << 10), compression="gzip")


def unwritten(file, name, values, folder):
    file.create_dataset(name, values.shape, values.dtype)


def scalar(file, name, values, folder):
    file[name] = values.reshape(-1)[0]


def no_values(file, name, values, folder):
    file[name] = h5py.Empty(values.dtype)


def fewer_rows(file, name, values, folder):
    file[name] = values[:-1]


def floats(file, name, values, folder):
    file[name] = np.zeros(values.shape, np.float64)


def compound(file, name, values, folder):
    file[name] = np.zeros(values.shape, [("a", "i4"), ("b", "f8")])


def references(file, name, values, folder):
    file[name] = np.full(values.shape, file.ref, h5py.ref_dtype)


def strings_of_any_length(file, name, values, folder):
    file.create_dataset(name, data=np.full(values.shape, "x", object), dtype=h5py.string_dtype())


def scale_offset(file, name, values, folder):
    chunks = tuple(max(1, length) for length in values.shape)
    file.create_dataset(name, values.shape, np.int32, chunks=chunks, scaleoffset=0)[...] = 1


def compact(file, name, values, folder):
    """Values in the object header, which no row offset can refer to."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_INT16, space, plist)


ATTACKS = [
    soft_link,
    external_link,
    virtual,
    external_storage,
    named_type,
    group,
    attribute,
    extra_object,
    root_attribute,
    bomb,
    unwritten,
    scalar,
    no_values,
    fewer_rows,
    floats,
    compound,
    references,
    strings_of_any_length,
    scale_offset,
    compact,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("kind", ["ours", "panns", "index", "mp3"])
def test_every_attack_on_a_dataset_is_refused(formats, tmp_path, kind, attack):
    path, attacked, classes = formats[kind]
    assert read_all(path, classes)
    sound = shutil.copy(attacked, tmp_path / "sound")
    with h5py.File(sound) as file:
        names = list(file)
    for name in names:
        shutil.copy(sound, attacked)
        with h5py.File(attacked, "r+", libver=("v110", "v110")) as file:
            values = file[name][...]
            del file[name]
            attack(file, name, values, tmp_path)
        with pytest.raises(PackError, match=attacked.name):
            read_all(path, classes)


@pytest.mark.parametrize("kind", ["ours", "panns", "index", "mp3"])
@pytest.mark.parametrize("kept", [0, 7, 100, 0.3, 0.9])
def test_cut_files_are_refused(formats, kind, kept):
    path, attacked, classes = formats[kind]
    whole = attacked.read_bytes()
    attacked.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(PackError, match=attacked.name):
        read_all(path, classes)


@pytest.mark.parametrize("kind", ["panns", "index", "mp3"])
def test_a_pipe_in_place_of_a_file_does_not_block(formats, kind, tmp_path):
    path, attacked, classes = formats[kind]
    attacked.unlink()
    os.mkfifo(attacked)
    with pytest.raises(PackError, match=attacked.name):
        read_all(path, classes)


def replaced(path, name, values, **how):
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, data=values, **how)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([32_000, 1]), "sample_rate: must be one whole number"),
        (np.float64(32_000), "sample_rate: must be one whole number"),
        (np.int64(1 << 40), "sample_rate: is 1099511627776, must be between 1000 and 384000 Hz"),
        (np.int32(-1), "sample_rate: is -1, must be between"),
        ("32000", "sample_rate: must be one whole number"),
        (h5py.Empty("i4"), "sample_rate: must be one whole number"),
    ],
)
def test_an_impossible_sample_rate_is_refused(formats, value, message):
    path, _, classes = formats["panns"]
    with h5py.File(path, "r+") as file:
        file.attrs["sample_rate"] = value
    with pytest.raises(PackError, match=rf"x\.h5: {message}"):
        read_all(path, classes)


def test_targets_that_are_neither_true_nor_false_are_refused(formats):
    path, _, classes = formats["panns"]
    with h5py.File(path, "r+") as file:
        target = file["target"].astype(np.uint8)[...]
        target[2, 1] = 2
    replaced(path, "target", target)
    with pytest.raises(PackError, match=r"x\.h5: target: holds more than true and false"):
        read_all(path, classes)


def test_a_name_that_is_not_utf8_is_refused(formats):
    path, _, classes = formats["panns"]
    with h5py.File(path, "r+") as file:
        file["audio_name"][1] = b"\xff\xfe"
    with pytest.raises(PackError, match=r"x\.h5: audio_name: is not UTF-8"):
        read_all(path, classes)


def test_too_long_names_are_refused(formats):
    path, _, classes = formats["panns"]
    replaced(path, "audio_name", np.full(5, b"x", "S2000"))
    with pytest.raises(PackError, match=r"audio_name: has type \|S2000, must have strings of 1 to 1024 bytes"):
        read_all(path, classes)


def test_too_large_chunks_are_refused(formats):
    path, _, classes = formats["panns"]
    with h5py.File(path, "r+") as file:
        del file["waveform"]
        file.create_dataset("waveform", (5, 1 << 26), np.int16, chunks=(1, 1 << 26), compression="gzip")[0, 0] = 1
    with pytest.raises(PackError, match=r"waveform: has chunks of 134217728 bytes, may have 67108864"):
        read_all(path, classes)


def test_an_index_of_too_many_files_is_refused(formats):
    path, _, classes = formats["index"]
    rows = 10_001
    columns = {
        "audio_name": np.full(rows, b"x", "S20"),
        "target": np.zeros((rows, classes), bool),
        "hdf5_path": np.array([b"%d.h5" % row for row in range(rows)], "S200"),
        "index_in_hdf5": np.zeros(rows, np.int32),
    }
    for name, values in columns.items():
        replaced(path, name, values)
    with pytest.raises(PackError, match=r"x\.h5: hdf5_path: has more than 10000 different values"):
        read_all(path, classes)


def test_a_linked_waveform_file_must_have_panns_format(formats, tmp_path):
    """A symbolic link is followed, and its target must be a waveform file."""
    path, _, classes = formats["index"]
    waveforms = tmp_path / "waveforms" / "x.h5"
    waveforms.unlink()
    (tmp_path / "secret").write_bytes(SECRET)
    waveforms.symlink_to(tmp_path / "secret")
    with pytest.raises(PackError, match=r"waveforms/x\.h5: file: "):
        read_all(path, classes)
