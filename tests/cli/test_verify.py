import json
from functools import partial

import pytest

from epanns.data.manifest import write_manifest
from epanns.data.pack_format import PackSettings
from epanns.data.packer import pack_manifest
from epanns.data.synthetic import SyntheticSettings, make_synthetic


@pytest.fixture
def verify(epanns):
    """Run `epanns verify`; return exit code, stdout and stderr."""
    return partial(epanns, "verify")


@pytest.fixture
def pack(tmp_path):
    settings = SyntheticSettings(clips=5, classes=2, seconds=0.5, sample_rate=8_000)
    write_manifest(make_synthetic(tmp_path / "set", settings), tmp_path / "m.csv")
    pack_manifest(tmp_path / "m.csv", tmp_path / "pack", PackSettings((), 8_000, 0.5))
    return tmp_path / "pack"


def test_a_whole_pack_is_one_line(verify, pack):
    assert verify(pack) == (0, f"{pack}: whole; every file, rule and checksum holds\n", "")
    assert json.loads(verify(pack, "--json")[1]) == {"pack": str(pack), "ok": True, "problems": []}


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_pack_is_listed_with_exit_code_3(verify, pack, damage):
    shard = pack / "shard-00000.h5"
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 16
    shard.write_bytes(content)
    code, out, err = verify(pack)
    assert code == 3
    assert f"{shard}: its sha256 is not the one in pack.json: the file has changed" in out
    assert len(out.splitlines()) == 2
    assert f"epanns: {pack}: 2 problem(s) found, listed above; copy the pack again or pack again" in err
    assert len(json.loads(verify(pack, "--json")[1])["problems"]) == 2


def test_what_is_no_pack_is_exit_code_3(verify, tmp_path):
    code, out, _ = verify(tmp_path)
    assert code == 3
    assert "has no pack.json, so it is no pack; make one with `epanns pack`" in out


def test_a_path_that_is_not_there_is_wrong_usage(verify, tmp_path):
    assert verify(tmp_path / "nowhere")[0] == 2
