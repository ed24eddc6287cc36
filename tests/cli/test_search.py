"""``epanns search``: the result of the library as text and JSON, and a line for each trial."""

import json

import pytest

pytest.importorskip("optuna")


def test_the_front_is_printed_logged_and_reported(epanns, tiny_checkpoint, tiny_packs, tmp_path):
    options = (tiny_checkpoint, "--data", tiny_packs["val"], "--budget", "macs:0.3..0.7", "--out", tmp_path / "out")
    options += ("--recover", "none,bn", "--calibration-clips", 8)
    code, text, err = epanns("search", *options, "--trials", 4)
    assert code == 0
    front = json.loads((tmp_path / "out" / "front.json").read_text())
    assert f"4 trials, {front['n_points']} different networks, {len(front['front'])} on the front" in text
    for point in front["front"]:
        assert f"{100 * point['fraction']:.1f}" in text and f"{point['score']:.4f}" in text
    assert "[1/4] " in err and "[4/4] " in err and "% of macs, activation, bn: own tags " in err
    code, out, err = epanns("search", *options, "--trials", 4, "--json")
    assert code == 0 and json.loads(out) == {"out": str(tmp_path / "out"), **front}
    assert "[" not in err
    assert epanns("report", tmp_path / "out", "--out", tmp_path / "report")[0] == 0
    table = (tmp_path / "report" / "table.md").read_text()
    assert "own tags" in table and "budget of macs 0.7" in table


def test_errors_are_one_line(epanns, tiny_checkpoint, tiny_packs, tmp_path):
    given = (tiny_checkpoint, "--data", tiny_packs["val"], "--out", tmp_path / "out")
    code, _, err = epanns("search", *given, "--budget", "macs")
    assert code == 1 and err.count("\n") == 1 and "must be a kind (macs, params, bytes) and a range" in err
    (tmp_path / "map.csv").write_text("category,mid,display_name\n")
    code, _, err = epanns("search", *given, "--budget", "macs:0.3..0.7", "--map", tmp_path / "map.csv")
    assert code == 1 and "map.csv uses labels: give --score labels too, or leave it out" in err
