"""Sources of a report beside records: found below its folders, checked, and noted where they are broken."""

import json

import pytest

from epanns.feedback import Note
from epanns.reporting.figures.per_class import per_class_figure
from epanns.reporting.sources import find_sources
from tests.builders import make_finished_run, make_record, make_stage
from tests.reporting.drawn import outside, overlapping, texts_of

HEAD = "index,name,ap,auc,n_positive\n"


def evaluation(folder, text):
    folder.mkdir(parents=True)
    (folder / "per_class.csv").write_text(text)
    record = make_record(folder.name, 0, (make_stage("evaluated", 0.5),))
    (folder / "result.json").write_text(json.dumps(record.to_dict()))
    return folder


def test_scores_by_class_are_read_and_empty_ones_are_unknown(tmp_path):
    evaluation(tmp_path / "runs" / "a", HEAD + '0,"Dog, bark",0.5,0.9,3\n1,Cat,,,0\n')
    (found,) = find_sources([tmp_path / "runs"]).classes
    assert (found.name, found.rows) == ("a", (("Dog, bark", 3, 0.5), ("Cat", 0, None)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,name\n0,Dog\n", "has no columns name, ap and n_positive: give the --out of `epanns evaluate`"),
        (HEAD + "0,Dog,2,0.9,3\n", r"line 2: n_positive and ap must be a count and a number in \[0, 1\]"),
        (HEAD + "0,Dog,nan,0.9,3\n", "line 2: n_positive and ap must be"),
        (HEAD + "0,Dog,0.5,0.9,many\n", "line 2: n_positive and ap must be"),
    ],
)
def test_broken_scores_by_class_are_noted_and_left_out(tmp_path, text, message):
    evaluation(tmp_path / "a", text)
    with pytest.warns(Note, match=f"{message}.*; left out of the report"):
        assert find_sources([tmp_path]).is_empty


def test_agreements_are_read_by_their_names_in_records(tmp_path):
    values = {"pruned": "half", "dense": "base", "dataset": "clips", "correlation": 0.9, "tag_mAP": None, "tau": 0.5}
    (tmp_path / "agreement.json").write_text(json.dumps(values))
    (found,) = find_sources([tmp_path]).agreements
    assert found.scores == {"agreement_correlation": 0.9, "agreement_tag_mAP": None, "agreement_tau": 0.5}
    (tmp_path / "agreement.json").write_text(json.dumps(values | {"tau": "high"}))
    with pytest.warns(Note, match="tau must be a number or null; left out"):
        assert find_sources([tmp_path]).is_empty


def test_a_folder_given_twice_counts_once_and_training_runs_of_trials_are_left_out(tmp_path):
    trial = evaluation(tmp_path / "trials" / "a", HEAD + "0,Dog,0.5,0.9,3\n")
    make_finished_run(trial / "base", {"mAP": (0.1, 0.2, 0.4, 0.3)})
    make_finished_run(tmp_path / "run", {"mAP": (0.1, 0.2, 0.4, 0.3)})
    found = find_sources([tmp_path, tmp_path / "run", tmp_path])
    assert [curve.name for curve in found.curves] == ["run"]
    assert len(found.classes) == 1


@pytest.mark.parametrize(("n_classes", "shown"), [(1, 1), (12, 12), (100, 60)])
def test_the_figure_has_every_class_or_the_best_and_the_worst(tmp_path, n_classes, shown):
    rows = "".join(f"{n},class {n},{n / n_classes},0.9,3\n" for n in range(n_classes))
    for name in ("one", "two"):
        evaluation(tmp_path / name, HEAD + rows + "999,never,,,0\n")
    figure = per_class_figure(find_sources([tmp_path]).classes)
    texts = [text.get_text() for text in texts_of(figure)]
    names = [text for text in texts if text.startswith("class ")]
    assert len(names) == shown
    assert names[0] in (f"class {n_classes - 1}", "class 0")
    assert "never" not in texts
    assert {"one", "two"} <= set(texts)
    assert (overlapping(figure), outside(figure)) == ([], [])
