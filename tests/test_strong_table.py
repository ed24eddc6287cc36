"""The table of the strong networks: a row for each, means over seeds, scores near the end, and the files it reads."""

import json
import runpy
import tomllib
from pathlib import Path

from epanns.records import Stage
from epanns.training.config import read_training
from tests.builders import make_record

ROOT = Path(__file__).parents[1]
TABLE = runpy.run_path(str(ROOT / "experiments" / "strong_table.py"))


def write_network(out: Path, seed: int, scores: list[float]) -> None:
    name = f"cnn14_w0.25-s{seed}"
    stage = Stage("evaluated", {"test": {"mAP": scores[-1]}}, 0.0)
    record = make_record(name, seed, (stage,), model="Cnn14_16k", experiment="evaluate")
    (out / name).mkdir(parents=True)
    (out / "scored" / name).mkdir(parents=True)
    (out / "scored" / name / "result.json").write_text(json.dumps(record.to_dict()))
    rows = [{"step": 10 * place, "mAP": score} for place, score in enumerate(scores)]
    (out / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_table_shows_each_seed_near_its_end_and_the_mean(tmp_path):
    rising = [0.01 * place for place in range(11)]
    write_network(tmp_path / "out", 1, [*rising[:10], 0.7])
    write_network(tmp_path / "out", 0, [*rising[:10], 0.8])
    TABLE["collect"](tmp_path / "out", tmp_path / "results")
    lines = TABLE["table_of"](TABLE["read_strong"](tmp_path / "results")).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Cnn14_16k x 0.25", "0", "100", "0.080", "0.090", "0.800", "0.800"]
    assert cells[1] == ["Cnn14_16k x 0.25", "1", "100", "0.080", "0.090", "0.700", "0.700"]
    assert cells[2][1] == "mean of 2" and cells[2][-1] == "0.750 ± 0.071"


def test_a_network_without_a_score_is_left_out(tmp_path):
    write_network(tmp_path / "out", 0, [0.5])
    (tmp_path / "out" / "cnn14_w0.25-s1").mkdir()
    TABLE["collect"](tmp_path / "out", tmp_path / "results")
    assert len(TABLE["read_strong"](tmp_path / "results")) == 1


def test_the_settings_keep_the_last_step():
    given = tomllib.loads((ROOT / "experiments" / "strong" / "training.toml").read_text())
    config = read_training({key.replace("-", "_"): value for key, value in given.items()})
    assert config.keep == "last" and config.iterations % config.validate_every == 0
