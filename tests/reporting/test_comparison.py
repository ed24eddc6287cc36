"""Rows of runs on the same clips: selection, alignment, numbers, and every refusal."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import epanns
from epanns import atomic
from epanns.clip_scores import ClipScores, write_clip_scores
from epanns.errors import ConfigError, DataError
from epanns.reporting.comparison import compare
from epanns.reporting.comparison_tables import comparison_markdown, write_comparison
from tests.builders import make_record, make_stage

CLIPS = tuple(f"1-{number // 2}-{number % 2}.wav" for number in range(40))
NAMES = ("Bark", "Meow", "Rain", "Silence")
CLIP_OF, CLASSES = "^1-([0-9]+)-", 4


def scores_of(seed: int, gain: float, clips: tuple[str, ...] = CLIPS, **changes: object) -> ClipScores:
    """Return scores of labels that depend on the clips alone; `Silence` is nowhere."""
    target = np.random.default_rng(99).random((len(clips), CLASSES)) < [0.3, 0.2, 0.4, 0.0]
    noise = np.random.default_rng(seed).random(target.shape)
    found = ClipScores(clips, NAMES, ((noise + gain * target) / (1 + gain)).astype(np.float32), target)
    return replace(found, **changes)


def write_run(folder: Path, found: ClipScores, *, seed: int = 0, **changes: object) -> Path:
    """Write the record and the scores of a run."""
    config = {"kind": "evaluated", "checkpoint": f"{folder.name}@1", "packs": "p", **changes.pop("config", {})}
    record = make_record(f"id{folder.name}", seed, (make_stage("evaluated", 0.5),), config=config)
    record = replace(record, **{"experiment": "evaluate", "network": folder.name, **changes})
    folder.mkdir(parents=True)
    atomic.write_json(folder / "result.json", record.to_dict())
    write_clip_scores(folder / "scores.npz", found)
    return folder


@pytest.fixture
def pair(tmp_path):
    return [
        write_run(tmp_path / name, scores_of(number, gain))
        for number, (name, gain) in enumerate([("a", 0.2), ("b", 0.8)])
    ]


def slow_map(found: ClipScores) -> float:
    columns = [column for column in range(CLASSES) if found.target[:, column].any()]
    return float(np.mean([average_precision_score(found.target[:, c], found.scores[:, c]) for c in columns]))


def test_the_scores_are_those_of_scikit_learn_and_the_difference_is_the_second_minus_the_first(pair):
    found = epanns.compare(pair, bootstrap=200)
    expected = [slow_map(scores_of(0, 0.2)), slow_map(scores_of(1, 0.8))]
    assert [score.mean for score in found.scores] == pytest.approx(expected, abs=1e-12)
    (change,) = found.differences
    assert change.difference == pytest.approx(expected[1] - expected[0], abs=1e-12)
    assert change.interval[0] > 0 and change.p == change.p_holm == pytest.approx(2 / 201)
    assert (found.n_clips, found.n_parts, found.n_groups, found.dataset) == (40, 1, None, "ESC-10")
    assert [each.name for each in found.per_class] == list(NAMES)
    assert found.per_class[3].ap == (None, None)
    assert (found.changes[0].higher + found.changes[0].lower, found.changes[0].undefined) == (3, 1)
    gains = found.changes_of(change)
    assert [pair[1] for pair in gains] == sorted((pair[1] for pair in gains), reverse=True)


def test_clips_and_classes_in_another_order_are_the_same(pair, tmp_path):
    given = scores_of(1, 0.8)
    rows, columns = np.random.default_rng(0).permutation(40), [2, 0, 3, 1]
    shuffled = ClipScores(
        tuple(CLIPS[row] for row in rows),
        tuple(NAMES[column] for column in columns),
        given.scores[np.ix_(rows, columns)],
        given.target[np.ix_(rows, columns)],
    )
    other = write_run(tmp_path / "shuffled", shuffled)
    one, two = (compare([pair[0], folder], bootstrap=50) for folder in (pair[1], other))
    assert one.differences == two.differences
    assert [each.ap for each in one.per_class] == [each.ap for each in two.per_class]


def test_groups_are_found_by_pattern_or_in_the_files_and_widen_the_interval(pair, tmp_path):
    by_pattern = compare(pair, group_pattern=CLIP_OF, bootstrap=300)
    groups = tuple(clip.split("-")[1] for clip in CLIPS)
    held = [write_run(tmp_path / f"g{n}", scores_of(n, g, groups=groups)) for n, g in ((0, 0.2), (1, 0.8))]
    in_files = compare(held, bootstrap=300)
    assert by_pattern.n_groups == in_files.n_groups == 20
    assert by_pattern.differences == in_files.differences
    assert compare(pair, bootstrap=300).differences[0].interval != in_files.differences[0].interval
    with pytest.raises(DataError, match=r"g0 and another run hold different groups of the same clips: give --group-pa"):
        compare([held[0], pair[1]])


def test_a_folder_of_seeds_is_one_row_and_equal_networks_count_once(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path / "one" / f"s{seed}", scores_of(seed, 0.3), seed=seed)
        write_run(tmp_path / "two" / f"t{seed}", scores_of(seed + 10, 0.5), seed=seed, network="the same")
    found = compare([tmp_path / "one", tmp_path / "two"], bootstrap=100)
    assert [score.n for score in found.scores] == [3, 1]
    expected = [slow_map(scores_of(seed, 0.3)) for seed in (0, 1, 2)]
    assert found.scores[0].mean == pytest.approx(np.mean(expected))
    assert found.scores[0].sd == pytest.approx(np.std(expected, ddof=1))
    assert found.to_dict()["rows"][0]["seeds"] == [0, 1, 2]
    assert "then of the seeds" in comparison_markdown(found)


def test_folds_are_sets_of_clips_whose_scores_are_averaged(tmp_path):
    folds = [CLIPS[:20], CLIPS[20:]]
    for row, gain in (("a", 0.2), ("b", 0.8)):
        for fold, clips in enumerate(folds):
            found = scores_of(fold, gain, clips)
            write_run(tmp_path / row / f"{row}{fold}", found, config={"packs": str(fold), "split": str(fold)})
    found = compare([tmp_path / "a", tmp_path / "b"], bootstrap=100)
    assert (found.n_parts, found.n_clips, found.scores[0].n) == (2, 40, 2)
    expected = np.mean([slow_map(scores_of(fold, 0.2, clips)) for fold, clips in enumerate(folds)])
    assert found.scores[0].mean == pytest.approx(expected)
    assert "40 clips in 2 sets" in comparison_markdown(found)
    with pytest.raises(DataError, match=r"b0 has no run on the clips of .*a1: every row needs a run on each of 2 sets"):
        compare([tmp_path / "a", tmp_path / "b" / "b0"])


def sweep(tmp_path: Path) -> Path:
    """Write trials of two criteria at two ratios under two seeds."""
    number = 0
    for criterion in ("l1", "fpgm"):
        for ratio in (0.25, 0.5):
            for seed in (0, 1):
                record = {"criterion": criterion, "ratio": ratio, "experiment": "study"}
                config = {"kind": "pruned", "criterion": criterion, "ratio": ratio, "base": {"name": "x"}, "seed": seed}
                folder = tmp_path / "sweep" / "trials" / f"{number}f"
                write_run(folder, scores_of(number, 0.2), seed=seed, config=config, **record)
                number += 1
    return tmp_path / "sweep"


def test_rows_of_a_sweep_are_selected_by_id_or_by_settings(tmp_path):
    folder = sweep(tmp_path)
    found = compare([f"{folder}:criterion=l1,ratio=0.50", f"{folder}:id4"], bootstrap=0)
    assert [[run.folder.name for run in row.runs] for row in found.rows] == [["2f", "3f"], ["4f"]]
    assert [row.name for row in found.rows] == [f"{folder}:criterion=l1,ratio=0.50", f"{folder}:id4"]
    wrong = {
        ":id9": "no such trial.*; give one of id0f, .* and 3 more, or settings such as criterion=l1",
        ":id": "8 trials begin so; give one of",
        ":criterion=fpgn": "none of 8 runs; criterion is one of fpgm, l1",
        ":criterion=l1": "runs of several configurations, .* has ratio=0.5 and .* 0.25: select one, as in FOLDER:",
        "": "8 runs of several configurations",
    }
    for selection, message in wrong.items():
        with pytest.raises(DataError, match=message):
            compare([f"{folder}:id0", f"{folder}{selection}"])
    for selection, message in {
        "criterium=l1": r"a setting 'criterium' \(did you mean 'criterion'",
        "=l1": "must be a tr",
    }.items():
        with pytest.raises(ConfigError, match=message):
            compare([f"{folder}:id0", f"{folder}:{selection}"])


def test_several_rows_are_compared_with_the_first_or_all_with_each_other(pair, tmp_path):
    third = write_run(tmp_path / "c", scores_of(7, 0.3))
    first = compare([*pair, third], bootstrap=100)
    every = compare([*pair, third], bootstrap=100, all_pairs=True)
    assert [(each.first, each.second) for each in first.differences] == [(0, 1), (0, 2)]
    assert [(each.first, each.second) for each in every.differences] == [(0, 1), (0, 2), (1, 2)]
    assert first.differences[0].p == every.differences[0].p
    assert every.differences[0].p_holm == pytest.approx(3 * every.differences[0].p)
    assert "p, Holm" in comparison_markdown(first) and "corrected for 3 differences" in comparison_markdown(every)


def test_accuracy_is_of_clips_with_one_class(tmp_path, pair):
    one = np.eye(CLASSES, dtype=bool)[np.arange(40) % 3]
    folders = [write_run(tmp_path / f"s{n}", scores_of(n, 0.0, target=one)) for n in range(2)]
    found = compare(folders, score="accuracy", bootstrap=100)
    expected = [(scores_of(n, 0.0).scores.argmax(axis=1) == np.arange(40) % 3).mean() for n in range(2)]
    assert [score.mean for score in found.scores] == pytest.approx(expected)
    with pytest.raises(DataError, match="clips have no or several classes, first .*: accuracy needs exactly one"):
        compare(pair, score="accuracy")


def test_runs_that_do_not_fit_are_refused(pair, tmp_path):
    target = scores_of(0, 0.2).target.copy()
    target[3] = ~target[3]
    wrong = {
        "other clips": (
            scores_of(0, 0.2, ("new.wav", *CLIPS[1:])),
            {},
            "2 are in one of the two alone, first '1-0-0.wav'",
        ),
        "other classes": (
            scores_of(0, 0.2, class_names=("Bark", "Meow", "Rain", "Snow")),
            {},
            "differ in 2, first 'Silence'",
        ),
        "other labels": (scores_of(0, 0.2, target=target), {}, "other labels for 1 of 40 clips, first '1-1-1.wav'"),
        "no labels": (scores_of(0, 0.2, target=np.zeros_like(target)), {}, "no clip has a class"),
        "windows": (
            scores_of(0, 0.2),
            {"protocol": "1 s windows"},
            "was scored by 'whole clip' and .* by '1 s windows'",
        ),
    }
    for number, (found, changes, message) in enumerate(wrong.values()):
        with pytest.raises(DataError, match=message):
            compare([pair[0], write_run(tmp_path / f"wrong{number}", found, **changes)])
    broken = scores_of(0, 0.2).scores.copy()
    broken[0, 0] = np.nan
    with pytest.raises(DataError, match="those of 1 of 40 clips are not or are NaN"):
        compare([pair[0], write_run(tmp_path / "nan", scores_of(0, 0.2, scores=broken))])
    with pytest.raises(DataError, match="missing: no such folder; give the --out of `epanns evaluate`, or FOLD"):
        compare([pair[0], tmp_path / "missing"])
    with pytest.raises(DataError, match="result.json is a file: give its folder"):
        compare([pair[0], pair[1] / "result.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no result.json"):
        compare([pair[0], tmp_path / "empty"])
    with pytest.raises(ConfigError, match="a is given twice"):
        compare([pair[0], pair[0]])
    with pytest.raises(ConfigError, match="1 rows: a comparison needs at least two"):
        compare(pair[:1])
    with pytest.raises(ConfigError, match="score='map': must be one of mAP, accuracy"):
        compare(pair, score="map")
    (pair[1] / "scores.npz").unlink()
    with pytest.raises(DataError, match="b: holds no scores.npz, .*; score it with `epanns evaluate --out`"):
        compare(pair)


def test_a_trial_without_scores_names_the_setting_that_keeps_them(tmp_path):
    folder = sweep(tmp_path)
    (folder / "trials" / "1f" / "scores.npz").unlink()
    with pytest.raises(DataError, match=r"1f: holds no scores.npz.*keep_scores = true under \[evaluation\], delete .*"):
        compare([f"{folder}:id0", f"{folder}:id1"])


def test_the_folder_holds_every_number(pair, tmp_path):
    found = compare(pair, bootstrap=100)
    files = write_comparison(found, tmp_path / "out", per_class=2)
    assert [path.name for path in files] == ["comparison.json", "table.md", "differences.csv", "per_class.csv"]
    assert json.loads(files[0].read_text()) == json.loads(json.dumps(found.to_dict()))
    text = files[1].read_text()
    assert f"{found.differences[0].difference:+.4f}" in text
    assert "Largest gains and losses" in text and "1 classes without a positive are left out" in text
    assert "first,second,mAP_first,mAP_second,difference,low,high,p,p_holm" in files[2].read_text()
    header, *lines = files[3].read_text().splitlines()
    assert header == f"index,name,n_positive,ap {pair[0]},ap {pair[1]}"
    assert len(lines) == CLASSES and lines[3].endswith(",0,,")
