import json
from functools import partial

import pytest

from epanns.labels import LabelSet
from tests.builders import make_manifest, make_pack
from tests.data.panns_files import CLASSES, clip_names, write_waveforms


@pytest.fixture
def verify(epanns):
    """Run `epanns verify`; return exit code, stdout and stderr."""
    return partial(epanns, "verify")


@pytest.fixture
def pack(tmp_path):
    return make_pack(make_manifest(tmp_path), tmp_path / "pack")


def test_a_whole_pack_is_one_line(verify, pack):
    assert verify(pack) == (0, f"{pack}: whole; 5 clips read, every file, rule and checksum holds\n", "")
    expected = {"pack": str(pack), "ok": True, "problems": [], "remarks": [], "clips": 5}
    assert json.loads(verify(pack, "--json")[1]) == expected


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
    assert f"epanns: {pack}: 2 problems found, listed above; copy the pack again or pack again" in err
    assert len(json.loads(verify(pack, "--json")[1])["problems"]) == 2


def test_what_is_no_pack_is_exit_code_3(verify, tmp_path):
    code, out, _ = verify(tmp_path)
    assert code == 3
    assert "has no pack.json, so it is no pack; make one with `epanns pack`" in out


def test_a_file_that_is_no_pack_gets_no_advice_to_pack_again(verify, tmp_path):
    (tmp_path / "list.csv").write_text("a,b\n")
    (tmp_path / "hdf5s" / "indexes").mkdir(parents=True)
    for path in (tmp_path / "list.csv", tmp_path / "hdf5s"):
        code, _, err = verify(path)
        assert code == 3
        assert err.endswith(f"{path}: 1 problem found, listed above\n")


def test_a_path_that_is_not_there_is_wrong_usage(verify, tmp_path):
    assert verify(tmp_path / "nowhere")[0] == 2


def test_a_pack_of_another_format_needs_its_classes_and_reports_unchecked_rules(verify, tmp_path):
    path = write_waveforms(tmp_path / "eval.h5", clip_names(3), missing={clip_names(3)[1]})
    code, out, _ = verify(path)
    assert code == 3
    assert "eval.h5: has 6 classes and does not name them; give --labels FILE.csv" in out
    (tmp_path / "labels.csv").write_text(LabelSet.numbered(CLASSES).to_csv())
    code, out, _ = verify(path, "--labels", tmp_path / "labels.csv")
    whole, checksums, empty = out.splitlines()
    assert code == 0
    assert whole == f"{path}: whole; 2 clips read, every rule that its format has holds"
    assert "has no checksums" in checksums
    assert "1 row holds nothing" in empty


def test_a_limit_to_its_memory_that_does_not_suffice_is_a_problem(verify, pack):
    code, out, _ = verify(pack, "--memory-limit", "0.0001")
    assert code == 3
    assert len(out.splitlines()) == 1
