import json
import os
import pickle
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from epanns.data.packs.pack import Pack
from epanns.errors import PackError
from tests.data.elsewhere import read_elsewhere, read_here

DATASETS = ("audio_name", "waveform", "n_samples", "target", "crc32")


@pytest.fixture
def shard(own):
    return own / "pack" / "shard-00000.h5"


def read_all(folder):
    pack = Pack(folder)
    columns = pack.columns
    return columns, [pack.read_waveform(index) for index in range(len(pack))]


def replace_dataset(shard, name, make):
    """Put another object in a dataset's place; `make` gets the file and the old values."""
    with h5py.File(shard, "r+", libver=("v110", "v110")) as file:
        values = file[name][...]
        del file[name]
        make(file, values)


def stored(file, name, values, **how):
    chunks = (1, values.shape[1]) if name == "waveform" else values.shape
    return file.create_dataset(name, data=values, **{"chunks": chunks, "fletcher32": True, **how})


def refused(folder, message):
    with pytest.raises(PackError, match=message) as caught:
        read_all(folder)
    assert "shard-00000.h5" in str(caught.value)


def test_pickling_drops_the_open_files(made):
    pack = Pack(made / "pack")
    before = pack.read_waveform(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pack)).read_waveform(0), before)


def test_a_closed_pack_opens_again(made):
    pack = Pack(made / "pack")
    before = pack.read_waveform(19)
    pack.close()
    np.testing.assert_array_equal(pack.read_waveform(19), before)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pack_can_be_passed_to_other_processes_before_and_after_use(made, method, used):
    pack = Pack(made / "pack")
    expected = read_here(pack) if used else read_here(Pack(made / "pack"))
    assert read_elsewhere(pack, method) == expected


def test_clips_are_read_without_hdf5_after_the_columns(made, monkeypatch):
    pack = Pack(made / "pack")
    assert len(pack.columns.clip_ids) == 20
    expected = read_all(made / "pack")[1]
    pack.close()
    monkeypatch.setattr(h5py, "File", None)
    copy = pickle.loads(pickle.dumps(pack))
    np.testing.assert_array_equal([copy.read_waveform(index) for index in range(20)], expected)


def test_the_columns_of_a_pack_are_small_when_pickled(made):
    pack = Pack(made / "pack")
    before = len(pickle.dumps(pack))
    assert len(pack.columns.clip_ids) == 20
    assert len(pickle.dumps(pack)) - before < 2000 + 20 * 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shard: os.truncate(shard, 40_000), r"ends before byte \d+: it was cut"),
        (lambda shard: shutil.copy(shard.with_name("shard-00001.h5"), shard), "does not match its crc32"),
        (Path.unlink, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_a_shard_that_changed_after_its_check_is_refused(own, shard, change, message):
    pack = Pack(own / "pack")
    pack.read_waveform(0)
    pack.close()
    change(shard)
    with pytest.raises(PackError, match=rf"clip 'clip-000007\.wav': .*shard-00000\.h5: .*{message}"):
        pack.read_waveform(7)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_cut_shard_is_refused(own, shard, kept):
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    refused(own / "pack", r"shard-00000\.h5: file: .*; the pack is damaged: copy it again or pack again")


def test_a_missing_shard_is_named(own, shard):
    shard.unlink()
    refused(own / "pack", "this file of the pack is missing; copy the pack again or pack again")


@pytest.mark.parametrize("name", DATASETS)
def test_a_flipped_bit_in_any_dataset_is_found(own, shard, name):
    with h5py.File(shard) as file:
        place = file[name].id.get_chunk_info(0).byte_offset
    content = bytearray(shard.read_bytes())
    content[place + 1] ^= 1
    shard.write_bytes(content)
    refused(own / "pack", rf"shard-00000\.h5: {name}")


def test_a_damaged_clip_is_named(own, shard):
    with h5py.File(shard) as file:
        place = file["waveform"].id.get_chunk_info(3).byte_offset
    content = bytearray(shard.read_bytes())
    content[place] ^= 128
    shard.write_bytes(content)
    pack = Pack(own / "pack")
    pack.read_waveform(2)
    with pytest.raises(PackError, match=r"clip 'clip-000003\.wav': .*waveform row 3: does not match its crc32"):
        pack.read_waveform(3)


def soft_link(file, values, shard):
    stored(file, "hidden", values)
    file["crc32"] = h5py.SoftLink("/hidden")


def external_link(file, values, shard):
    file["crc32"] = h5py.ExternalLink("shard-00001.h5", "/crc32")


def virtual(file, values, shard):
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(str(shard.with_name("shard-00001.h5")), "crc32", values.shape)
    file.create_virtual_dataset("crc32", layout)


def external_storage(file, values, shard):
    secret = shard.parents[1] / "secret"
    secret.write_bytes(b"x" * 1_000_000)
    file.create_dataset("waveform", values.shape, values.dtype, external=[(str(secret), 0, values.nbytes)])


def named_type(file, values, shard):
    file["type"] = np.dtype("uint32")
    stored(file, "crc32", values, dtype=file["type"])
    del file["type"]


def variable_length(file, values, shard):
    text = np.array([name.decode() for name in values], h5py.string_dtype("utf-8"))
    file.create_dataset("audio_name", data=text, chunks=values.shape)


def never_written(file, values, shard):
    file.create_dataset("waveform", values.shape, values.dtype, chunks=(1, values.shape[1]), fletcher32=True)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (
            "crc32",
            lambda file, values, _: stored(file, "crc32", values ^ 1),
            "waveform row 0: does not match its crc32",
        ),
        ("crc32", soft_link, "must hold audio_name, waveform, n_samples, target, crc32 and nothing else"),
        ("crc32", external_link, "crc32: is a link to another place"),
        ("crc32", virtual, "crc32: keeps its data in another file"),
        ("waveform", external_storage, "waveform: keeps its data in another file"),
        ("target", lambda file, *_: file.create_group("target"), "target: is no dataset"),
        ("crc32", named_type, "crc32: has a type that is an object of its own"),
        ("audio_name", variable_length, "audio_name: has type object, must have fixed-length UTF-8"),
        (
            "crc32",
            lambda file, values, _: stored(file, "crc32", values[:-1]),
            r"crc32: has shape \(7,\) in chunks \(7,\), must have \(8,\)",
        ),
        ("waveform", never_written, "waveform: stores 0 bytes, must store 64032: rows were never written"),
    ],
)
def test_a_dataset_that_breaks_the_schema_is_refused(own, shard, name, make, message):
    replace_dataset(shard, name, lambda file, values: make(file, values, shard))
    refused(own / "pack", message)


def test_an_extra_object_is_refused(own, shard):
    with h5py.File(shard, "r+", libver=("v110", "v110")) as file:
        file["extra"] = [1]
    refused(own / "pack", "file: must hold audio_name, .* and nothing else")


def test_an_attribute_is_refused(own, shard):
    with h5py.File(shard, "r+", libver=("v110", "v110")) as file:
        file.attrs["sample_rate"] = 44_100
    refused(own / "pack", "and nothing else")


def test_an_attribute_of_a_dataset_is_refused(own, shard):
    with h5py.File(shard, "r+", libver=("v110", "v110")) as file:
        file["target"].attrs["note"] = 1
    refused(own / "pack", "target: has attributes")


def test_a_user_block_is_refused(own, shard):
    shard.write_bytes(bytes(512) + shard.read_bytes())
    refused(own / "pack", "file: begins with a user block")


def test_structures_without_checksums_are_refused(own, shard):
    with h5py.File(shard) as file, h5py.File(shard.with_name("old.h5"), "w", libver="earliest") as old:
        for name in DATASETS:
            like = file[name]
            old.create_dataset(name, data=like[...], dtype=like.dtype, chunks=like.chunks, fletcher32=True)
    shard.with_name("old.h5").replace(shard)
    refused(own / "pack", r"file: has structures older than HDF5 1\.10, which have no checksums")


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("waveform", "float32", "waveform: has type float32, must have int16"),
        ("waveform", ">i2", "waveform: has type >i2, must have int16"),
        ("target", "int8", "target: has type int8, must have bool"),
        ("n_samples", "int64", "n_samples: has type int64, must have int32"),
    ],
)
def test_another_type_is_refused(own, shard, name, dtype, message):
    replace_dataset(shard, name, lambda file, values: stored(file, name, values.astype(dtype)))
    refused(own / "pack", message)


@pytest.mark.parametrize(
    "how", [{"fletcher32": False}, {"compression": "gzip"}, {"scaleoffset": 0, "fletcher32": False}]
)
def test_other_filters_are_refused(own, shard, how):
    replace_dataset(shard, "crc32", lambda file, values: stored(file, "crc32", values, **how))
    refused(own / "pack", r"crc32: has the filters \[.*\], must have fletcher32 alone")


@pytest.mark.parametrize("value", [0, 4_001, -1])
def test_lengths_out_of_range_are_refused(own, shard, value):
    replace_dataset(shard, "n_samples", lambda file, values: stored(file, "n_samples", np.full_like(values, value)))
    refused(own / "pack", r"n_samples: must be in 1\.\.4000")


def edited(folder, change):
    path = folder / "pack" / "pack.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder / "pack"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="epanns-pack/9"), "format is 'epanns-pack/9', this version of epanns reads"),
        (lambda c: c.pop("labels"), "breaks the format epanns-pack/1 (missing key 'labels')"),
        (lambda c: c["counts"].update(clips="20"), "counts: clips='20': must be a whole number"),
        (lambda c: c["counts"].update(clips=21), "the shards hold 20 clips, counts.clips is 21"),
        (lambda c: c["counts"].update(missing=3), "counts do not add up"),
        (lambda c: c["labels"]["names"].reverse(), "labels differ from their digest"),
        (lambda c: c["shards"][0].update(file="../other.h5"), "shards: file='../other.h5': must be a name of a shard"),
        (lambda c: c["shards"][0].update(file="shard-00001.h5"), "a shard is listed twice"),
        (lambda c: c.update(clip_samples=1 << 40), "clip_samples=1099511627776 is not settings.seconds"),
        (lambda c: c["settings"].update(seconds=1e9), "settings: seconds=1000000000.0: must be above 0"),
    ],
)
def test_a_wrong_description_is_refused(own, change, message):
    with pytest.raises(PackError, match=r"pack\.json: .*" + re.escape(message)):
        Pack(edited(own, change))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, rb'{"dataset": "\ud800"}'])
def test_a_description_that_is_no_json_object_is_refused(own, content):
    (own / "pack" / "pack.json").write_bytes(content)
    with pytest.raises(PackError, match=r"pack\.json: (cannot be read as JSON|byte 0 is not UTF-8|format is None)"):
        Pack(own / "pack")


def test_a_too_large_description_is_not_read(own):
    path = own / "pack" / "pack.json"
    os.truncate(path, 1 << 30)
    with pytest.raises(PackError, match=r"pack\.json: 1,073,741,824 bytes, must be at most 67,108,864: pack again"):
        Pack(own / "pack")


def test_an_unfinished_or_missing_pack_is_explained(own, tmp_path):
    with pytest.raises(PackError, match="nowhere: no such pack; make one with `epanns pack`"):
        Pack(tmp_path / "nowhere")
    with pytest.raises(PackError, match=r"has no pack\.json, so it is no pack"):
        Pack(tmp_path)
    (own / "pack" / "pack.json").unlink()
    with pytest.raises(PackError, match="packing was stopped before its end; run the same `epanns pack` again"):
        Pack(own / "pack")
