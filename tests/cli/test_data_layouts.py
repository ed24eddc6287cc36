"""Data sets in published layouts go from their files to packs by the command line alone."""

import json

import pytest

from epanns.data.packs.pack import open_pack
from tests.data.layouts import LAYOUTS, NAMES, RATE


@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_a_layout_is_listed_and_packed(epanns, tmp_path, layout):
    root = layout.write(tmp_path / "set")
    code, out, _ = epanns("data", layout.kind, root, *layout.options, "--out", tmp_path / "m.csv", "--json")
    assert code == 0
    counts = json.loads(out)
    assert (counts["found"], counts["missing"], counts["ignored"]) == (len(layout.sounds), 0, 0)
    for split, clip_ids in layout.parts.values():
        command = ("pack", tmp_path / "m.csv", "--split", split, "--sample-rate", RATE, "--seconds", 0.01)
        code, _, err = epanns(*command, "--out", tmp_path / split)
        assert code == 0, err
        pack = open_pack(tmp_path / split)
        assert [clip_id.decode() for clip_id in pack.columns.clip_ids] == list(clip_ids)
