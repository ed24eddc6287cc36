"""The same command after a pack was damaged."""

import functools
import json
import shutil
from dataclasses import replace

import h5py
import pytest

from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.verification import verify_pack
from epanns.errors import DataError, OutputError, PackError
from tests import builders
from tests.data.conftest import SETTINGS

PANNS = replace(SETTINGS, format="panns")


@pytest.fixture(params=["epanns", "panns"])
def pack(request, made, tmp_path):
    """A function that packs the clips of `made`, its folder, and the contents of an undisturbed run."""

    def run(**options):
        return pack_manifest(made / "set.csv", tmp_path / "pack", replace(SETTINGS, format=request.param), **options)

    run()
    return run, tmp_path / "pack", contents(tmp_path / "pack")


# Lines of a repaired shard are added to the journal.
contents = functools.partial(builders.contents, without=r"\.jsonl$")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def remove(path):
    path.unlink()


def second_shard(folder):
    return next(folder.rglob("*00001.h5"))


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("damage", [flip, shorten, remove])
def test_a_damaged_shard_is_packed_again(pack, damage, is_finished):
    run, folder, whole = pack
    damage(second_shard(folder))
    if not is_finished:
        (folder / "pack.json").unlink()
    summary = run()
    assert (summary.n_resumed, summary.n_repaired) == (2, 1)
    assert contents(folder) == whole
    assert verify_pack(folder).problems == ()
    assert (run().n_resumed, run().n_repaired) == (3, 0)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("pack.json", shorten),
        ("pack.json", remove),
        ("journal.jsonl", remove),
        ("rejects.csv", remove),
        ("notes.csv", remove),
        ("notes.csv", shorten),
    ],
)
def test_missing_lists_and_journals_are_made_again(pack, name, damage):
    run, folder, whole = pack
    damage(folder / name)
    run()
    assert contents(folder) == whole
    assert verify_pack(folder).problems == ()


@pytest.mark.parametrize("damage", [flip, shorten, remove])
def test_an_index_is_written_again(made, tmp_path, damage):
    pack_manifest(made / "set.csv", tmp_path / "pack", PANNS)
    whole = contents(tmp_path / "pack")
    damage(tmp_path / "pack" / "indexes" / "all.h5")
    assert pack_manifest(made / "set.csv", tmp_path / "pack", PANNS).n_resumed == 3
    assert contents(tmp_path / "pack") == whole


@pytest.mark.parametrize("column", ["audio_name", "target", "hdf5_path", "index_in_hdf5"])
def test_an_index_with_one_wrong_value_is_written_again(made, tmp_path, column):
    pack_manifest(made / "set.csv", tmp_path / "pack", PANNS)
    whole = contents(tmp_path / "pack")
    with h5py.File(tmp_path / "pack" / "indexes" / "all.h5", "r+") as index:
        index[column][9] = index[column][0] if column != "target" else ~index[column][9]
    pack_manifest(made / "set.csv", tmp_path / "pack", PANNS)
    assert contents(tmp_path / "pack") == whole


def test_progress_covers_the_checksums_of_a_finished_pack(pack):
    seen = []
    pack[0](progress=lambda done, total: seen.append((done, total)))
    assert seen == [(8, 20), (16, 20), (20, 20)]


def test_undamaged_shards_are_kept_without_their_audio(own):
    shutil.rmtree(own / "set" / "audio")
    assert pack_manifest(own / "set.csv", own / "pack", SETTINGS).n_resumed == 3
    flip(own / "pack" / "shard-00001.h5")
    damaged = contents(own / "pack")
    with pytest.raises(DataError, match=r"shard-00001\.h5: must be packed again, but .*clip-000008\.wav cannot"):
        pack_manifest(own / "set.csv", own / "pack", SETTINGS)
    assert contents(own / "pack") == damaged


def test_a_repair_with_other_versions_is_refused(own):
    flip(own / "pack" / "shard-00001.h5")
    lines = (own / "pack" / "journal.jsonl").read_text().splitlines(keepends=True)
    header = json.loads(lines[0])
    header["header"]["versions"]["numpy"] = "1.0"
    (own / "pack" / "journal.jsonl").write_text("".join([json.dumps(header) + "\n", *lines[1:]]))
    damaged = contents(own / "pack")
    with pytest.raises(OutputError, match=r"versions\.numpy=1\.0, not"):
        pack_manifest(own / "set.csv", own / "pack", SETTINGS)
    assert contents(own / "pack") == damaged


def test_a_pack_of_a_later_format_is_left_alone(own):
    text = (own / "pack" / "pack.json").read_text().replace("epanns-pack/1", "epanns-pack/2")
    (own / "pack" / "pack.json").write_text(text)
    with pytest.raises(PackError, match="format is 'epanns-pack/2'"):
        pack_manifest(own / "set.csv", own / "pack", SETTINGS)
    assert (own / "pack" / "pack.json").read_text() == text
