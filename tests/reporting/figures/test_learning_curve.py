"""The figure of learning curves: it shows every validation, marks the kept step, and distinguishes runs."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.errors import DataError
from epanns.reporting.figures.learning_curve import Curve, is_run, learning_figure, read_curve, write_learning_curves
from epanns.safe_text import printable
from tests.any_value import ANY_VALUE
from tests.builders import make_finished_run
from tests.reporting.drawn import outside, overlapping, texts_of

LOSSES, SCORES = (math.nan, 0.5, 0.25, 0.2), (0.1, 0.4, 0.6, 0.6)


@pytest.fixture
def make_run(tmp_path):
    def make(name: str, network: str = "Cnn14", activation: str = "sigmoid", **scores):
        return make_finished_run(tmp_path / name, scores or {"mAP": SCORES}, network=network, activation=activation)

    return make


def places_of(line):
    return list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def test_every_validation_is_drawn_and_the_first_of_the_best_is_marked(make_run):
    figure = learning_figure([read_curve(make_run("base"))])
    loss, score = figure.axes
    (drawn,) = loss.lines
    assert places_of(drawn) == list(zip((10, 20, 30), LOSSES[1:], strict=True))  # before the first step there is none
    line, star = score.lines
    assert places_of(line) == list(zip((0, 10, 20, 30), SCORES, strict=True))
    assert (places_of(star), star.get_marker()) == ([(20, 0.6)], "*")
    texts = [text.get_text() for text in texts_of(figure)]
    assert {"training loss", "validation mAP", "base: Cnn14", "step"} <= {*texts}
    assert "star: the step that is kept, mAP 0.6000 at step 20" in texts
    assert overlapping(figure) == outside(figure) == []


def test_the_score_that_chose_is_drawn_where_there_are_several(make_run):
    both = {"accuracy": (0.5, 0.9, 0.1, 0.2), "mAP": SCORES}
    found = [read_curve(make_run(activation, activation=activation, **both)) for activation in ("softmax", "sigmoid")]
    assert [(curve.score, curve.best) for curve in found] == [("accuracy", (10, 0.9)), ("mAP", (20, 0.6))]


def test_the_step_that_was_kept_is_marked_where_several_have_the_highest_score(make_run):
    kept = {"best_step": (0, 10, 20, 30), "validation_loss": (1.0, 0.9, 0.8, 0.7)}
    assert read_curve(make_run("run", mAP=SCORES, **kept)).best == (30, 0.6)


def test_runs_differ_without_colour():
    curves = [Curve(f"run{number}", "Cnn6", "mAP", ((1, 1),), ((0, 0.5), (1, 0.6))) for number in range(20)]
    figure = learning_figure(curves)
    lines = [line for line in figure.axes[1].lines if line.get_marker() != "*"]
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 20
    texts = [text.get_text() for text in texts_of(figure)]
    assert {f"run{number}: 0.6000 at step 1" for number in range(20)} <= {*texts}
    assert overlapping(figure) == outside(figure) == []


@pytest.mark.parametrize("n_points", [1, 2, 16, 17, 301])
def test_long_curves_have_a_handful_of_marks(n_points):
    points = tuple((float(step), 0.5) for step in range(n_points))
    (line,) = learning_figure([Curve("run", "Cnn6", "mAP", points, points)]).axes[0].lines
    marks = len(points[:: line.get_markevery()])
    assert marks == n_points if n_points <= 16 else 8 <= marks <= 17


def test_the_figure_is_whole_whatever_the_names_are(make_run, tmp_path):
    runs = [make_run("a<b>&c", network="Cnn<14>"), make_run("deep/a<b>&c", activation="softmax", accuracy=SCORES)]
    (svg,) = write_learning_curves(runs, tmp_path, stem="curves")
    text = "".join(ElementTree.fromstring(svg.read_text()).itertext())
    assert "2 runs: Cnn<14>, Cnn14" in text
    assert all(f"{run}: 0.6000 at step 20" in text for run in runs)  # by their paths, for their names are the same
    assert "validation mAP" in text and "validation accuracy" in text


def test_a_run_that_has_just_begun_can_be_drawn(tmp_path):
    figure = learning_figure([Curve("run", "Cnn6", "mAP", (), ((0.0, 0.0),))])
    assert "star: the step that is kept, mAP 0.0000 at step 0" in [text.get_text() for text in texts_of(figure)]


def test_what_is_no_run_is_named(make_run, tmp_path):
    assert not is_run(tmp_path)
    run = make_run("run")
    assert is_run(run)
    (run / "training.json").write_text("{}")
    with pytest.raises(DataError, match=r"training.json: cannot be read as a training run \(asked.model.name=None"):
        read_curve(run)
    (make_run("bare", loss=LOSSES) / "metrics.jsonl").write_text('{"step": 0, "mAP": null}\n')
    with pytest.raises(DataError, match=r"bare: cannot be read as a training run \(no mAP in metrics"):
        read_curve(tmp_path / "bare")


WORST = st.sampled_from(["NaN", "Infinity", "1e308", "1e999", "-1e38", "1e38", "1e-320", "true", '"x"', "[]", "null"])


@settings(max_examples=50)
@given(st.lists(WORST | st.just("9" * 400) | st.just("[" * 100_000), min_size=4, max_size=4))
def test_a_run_of_any_numbers_is_drawn_or_refused_in_one_line(values):
    step, loss, score, best = values
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "training.json").write_text('{"asked": {"model": {"name": "Cnn6"}}}')
        row = '{"step": %s, "loss": %s, "mAP": %s, "best_step": %s}\n'
        (folder / "metrics.jsonl").write_text(row % (step, loss, score, best) + row % (2, 0.5, 0.5, 2))
        try:
            (svg,) = write_learning_curves([folder], folder, stem="curve", images=False)
        except DataError as error:
            assert "\n" not in str(error) and "metrics.jsonl, line 1: " in str(error)
        else:
            ElementTree.fromstring(svg.read_text())


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"asked": []}', '{"asked": {"model": {"name": "a", "activation": []}}}']
)
def test_a_damaged_training_json_is_refused_in_one_line(make_run, text):
    run = make_run("run")
    (run / "training.json").write_text(text)
    with pytest.raises(DataError, match=r"^[^\n]*training\.json: cannot be read as [^\n]*$"):
        read_curve(run)


@settings(max_examples=50)
@given(st.sampled_from(["training", "step", "loss", "mAP", "best_step", "line"]), ANY_VALUE)
def test_any_value_in_the_files_of_a_run_is_drawn_or_refused_in_one_line(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("run")
    row = {"step": 1, "loss": 0.5, "mAP": 0.5, "best_step": 0}
    rows = [value if place == "line" else row | ({place: value} if place in row else {}), row]
    asked = {"model": value if place == "training" else {"name": "Cnn14"}}
    (folder / "training.json").write_text(json.dumps({"asked": asked}, default=str))
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(each, default=str) for each in rows))
    try:
        learning_figure([read_curve(folder)])
    except DataError as error:
        assert len(printable(str(error)).splitlines()) == 1  # as it is printed


@pytest.mark.parametrize("name", ["training.json", "metrics.jsonl"])
def test_deeply_nested_files_of_a_run_are_refused(make_run, name):
    folder = make_run("deep")
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(DataError, match="tables and lists are nested more than 64 deep"):
        read_curve(folder)


def test_numbers_that_no_run_writes_are_refused(make_run):
    folder = make_run("absurd")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1e30, "mAP": 0.5}\n')
    with pytest.raises(DataError, match=r"line 1: loss=1e\+30: must be null, or a number of at most 1e\+18; restore"):
        read_curve(folder)
