"""Folds: each is tested once, chosen on another, trained on the rest; reports average over them."""

import re
import statistics

import numpy as np
import pytest
import soundfile

from epanns.data.packs.pack import open_pack
from epanns.errors import ConfigError
from epanns.records import read_records
from epanns.reporting.rows import rows_by_block
from epanns.sweeps.data import DataConfig
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.folds import rotations
from epanns.sweeps.runner import run_experiment

SPLITS = [f"fold{number}" for number in range(1, 6)]


def rotated(folds, splits=SPLITS):
    data = DataConfig("esc50", folds=folds, root="esc")
    return [(each.fold, each.train, each.val, each.test) for each in rotations(data, splits, "ESC-50")]


def test_each_fold_is_tested_once_and_chosen_on_the_next():
    found = rotated("rotate")
    assert found[0] == (1, ("fold3", "fold4", "fold5"), ("fold2",), ("fold1",))
    assert found[4] == (5, ("fold2", "fold3", "fold4"), ("fold1",), ("fold5",))
    assert [test for *_, test in found] == [(split,) for split in SPLITS]
    assert all(sorted((*train, *val, *test)) == SPLITS for _, train, val, test in found)
    ten = [f"fold{number}" for number in range(1, 11)]  # UrbanSound8K's; 10 comes after 9
    assert rotated("rotate", ten)[8][2:] == (("fold10",), ("fold9",))


def test_a_list_of_folds_is_a_part_of_the_rotation():
    assert rotated((5, 1)) == [rotated("rotate")[4], rotated("rotate")[0]]
    assert rotations(DataConfig("esc50", ("a",), ("b",), ("c",), root="r"), SPLITS, "x")[0].fold == 0


@pytest.mark.parametrize(
    ("folds", "splits", "message"),
    [
        ((6,), SPLITS, "[data] no fold 6 in ESC-50: it has 1, 2, 3, 4, 5"),
        ("rotate", ["train", "fold1", "fold2"], "ESC-50 has the splits fold1, fold2, train, must have at least three"),
    ],
)
def test_folds_that_do_not_exist_are_named(folds, splits, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        rotated(folds, splits)


TEXT = """
name = "tiny"
seeds = [0, 1]
[data]
kind = "esc50"
root = "{root}"
folds = {folds}
sample_rate = 8000
seconds = 0.5
[[base]]
model = "Cnn14_8k"
width = 0.03
training = {{ iterations = 1, batch_size = 2, validate_every = 1, mixup_alpha = 0.0 }}
[grid]
ratio = [0.5]
layers = [["conv_block6"]]
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('folds = "rotate"', "folds = 'all'"), "[data] folds='all': must be 'rotate' for all folds, or a list of"),
        (('folds = "rotate"', "folds = [1, 1]"), "[data] folds=[1, 1]: must be 'rotate'"),
        (('folds = "rotate"', "folds = []"), "[data] folds=[]: must be 'rotate' for all folds, or a list of"),
        (('folds = "rotate"', 'train = ["a"]\nval = ["b"]'), "[data] missing key 'test'; give train, val and test"),
        (
            ('folds = "rotate"', 'folds = "rotate"\nval = ["a"]'),
            "folds='rotate' with train, val or test: give folds or",
        ),
        (('kind = "esc50"', 'kind = "packs"'), "[data] folds='rotate': packs has no folds; give train, val and test"),
        (('folds = "rotate"', "fold = 1"), "[data] unknown key 'fold' (did you mean 'folds'?)"),
    ],
)
def test_keys_of_folds_are_checked(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_experiment(TEXT.format(root="r", folds='"rotate"').replace(*change), "t.toml")


@pytest.fixture(scope="module")
def four_folds(tmp_path_factory):
    """Four clips of two classes in each of four folds, in ESC-50's layout."""
    root = tmp_path_factory.mktemp("data") / "four"
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    lines, noise = ["filename,fold,target,category"], np.random.default_rng(0)
    for fold in range(1, 5):
        for take in range(4):
            name = f"{fold}-{take}-A-{take % 2}.wav"
            soundfile.write(root / "audio" / name, noise.uniform(-0.5, 0.5, 4_000), 8_000)
            lines.append(f"{name},{fold},{take % 2},{'owl' if take % 2 else 'wren'}")
    (root / "meta" / "four.csv").write_text("\n".join(lines) + "\n")
    return root


def test_a_rotation_extends_to_all_folds_and_is_averaged_over_them(four_folds, tmp_path):
    def run(folds):
        return run_experiment(parse_experiment(TEXT.format(root=four_folds, folds=folds), "t.toml"), tmp_path / "out")

    first = run("[3]")
    assert (len(first.done), len(first.failed)) == (4, 0)
    more = run('"rotate"')
    assert (len(more.done), len(more.skipped), len(more.failed), more.left) == (12, 4, 0, ())
    assert set(more.skipped) == set(first.done)
    fewer = run("[1]")
    assert (len(fewer.skipped), len(fewer.left)) == (4, 12)

    packs = sorted(path.name for path in (tmp_path / "out" / "data" / "packs").iterdir())
    assert packs == ["fold1", "fold2", "fold3", "fold4"]
    ids = {name: set(open_pack(tmp_path / "out" / "data" / "packs" / name).columns.clip_ids) for name in packs}
    assert len(set.union(*ids.values())) == 16

    records = read_records([tmp_path / "out"])
    (rows,) = rows_by_block(records).values()
    assert [(row.variant, row.n_folds, row.n_seeds, row.settings) for row in rows] == [
        ("unpruned", 4, 8, ()),
        ("l1", 4, 8, ()),
    ]
    scores = [record.stages[-1].scores["test"]["mAP"] for record in records if record.criterion]
    assert rows[1].mAP["pruned"].mean == pytest.approx(statistics.fmean(scores))
    assert rows[1].mAP["pruned"].sd == pytest.approx(statistics.stdev(scores))
