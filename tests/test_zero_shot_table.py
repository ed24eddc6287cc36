"""Tables of networks that were pruned without labels: a row for each network, made from the committed files."""

import json
import runpy
from pathlib import Path

import pytest

from epanns.reporting.report import insert_table

ROOT = Path(__file__).parents[1]
TABLE = runpy.run_path(str(ROOT / "experiments" / "zero_shot_table.py"))


def test_the_committed_tables_are_made_from_the_committed_files(tmp_path):
    committed = (ROOT / "results" / "zero-shot" / "README.md").read_text()
    page = tmp_path / "README.md"
    page.write_text(committed)
    for network in TABLE["NETWORKS"]:
        insert_table(page, network, TABLE["table_of"](ROOT / "results" / "zero-shot" / network))
    assert page.read_text() == committed


def test_costs_are_fractions_of_the_unpruned_network(tmp_path):
    for name, macs, params in (("unpruned", 1_000, 40), ("half", 500, 10)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"backbone_macs": macs, "n_params": params}))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "agreement.json").write_text("{}")
    pruned = TABLE["read_pruned"](tmp_path, "half")
    assert (pruned.macs, pruned.params) == pytest.approx((0.5, 0.25))
