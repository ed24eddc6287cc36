"""The figure of learning curves: every validation is in it, the step that was kept is marked, runs are told apart."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import DataError
from epanns.reporting import figures
from epanns.reporting.axes import linear_axis
from epanns.reporting.chart import Point
from epanns.reporting.layout import lay_out
from epanns.reporting.learning_curve import Curve, is_run, learning_chart, read_curve, write_learning_curves
from epanns.reporting.svg import to_svg
from epanns.safe_text import printable
from tests.any_value import ANY_VALUE
from tests.builders import make_finished_run

LOSSES, SCORES = (math.nan, 0.5, 0.25, 0.2), (0.1, 0.4, 0.6, 0.6)


@pytest.fixture
def make_run(tmp_path):
    def make(name: str, network: str = "Cnn14", activation: str = "sigmoid", **scores):
        return make_finished_run(tmp_path / name, scores or {"mAP": SCORES}, network=network, activation=activation)

    return make


def test_every_validation_is_drawn_and_the_first_of_the_best_is_marked(make_run):
    (band,) = learning_chart([read_curve(make_run("base"))]).bands
    loss, score = band.panels
    assert loss.series[0].points == tuple(map(Point, (10, 20, 30), LOSSES[1:]))  # before the first step there is none
    line, star = score.series
    assert line.points == tuple(map(Point, (0, 10, 20, 30), SCORES))
    assert (star.points, star.style.marker) == ((Point(20, 0.6, label="0.6000 at 20"),), "star")
    assert (loss.y_label, score.y_label, band.title) == ("training loss", "validation mAP", "base: Cnn14")


def test_the_score_that_chose_is_drawn_where_there_are_several(make_run):
    both = {"accuracy": (0.5, 0.9, 0.1, 0.2), "mAP": SCORES}
    found = [read_curve(make_run(activation, activation=activation, **both)) for activation in ("softmax", "sigmoid")]
    assert [(curve.score, curve.best) for curve in found] == [("accuracy", (10, 0.9)), ("mAP", (20, 0.6))]


def test_the_step_that_was_kept_is_marked_where_several_have_the_highest_score(make_run):
    kept = {"best_step": (0, 10, 20, 30), "validation_loss": (1.0, 0.9, 0.8, 0.7)}
    assert read_curve(make_run("run", mAP=SCORES, **kept)).best == (30, 0.6)


def test_runs_are_told_apart_without_colour():
    curves = [Curve(f"run{number}", "Cnn6", "mAP", ((1, 1),), ((0, 0.5), (1, 0.6))) for number in range(12)]
    (band,) = learning_chart(curves).bands
    styles = [(series.style.marker, series.style.is_dashed) for series in band.panels[1].series[:12]]
    assert len({*styles[:4]}) == len({*styles[8:12]}) == 4
    assert not {*styles[:8]} & {*styles[8:]}
    assert [entry.text for entry in band.legend] == [f"run{number}: 0.6000 at 1" for number in range(12)]


@pytest.mark.parametrize("n_points", [1, 2, 16, 17, 301])
def test_long_curves_have_a_handful_of_marks(n_points):
    points = tuple((float(step), 0.5) for step in range(n_points))
    (series,) = learning_chart([Curve("run", "Cnn6", "mAP", points, points)]).bands[0].panels[0].series
    marks = len(series.points[:: series.marked_every])
    assert marks == n_points if n_points <= 16 else 8 <= marks <= 17


def test_the_figure_is_whole_whatever_the_names_are(make_run, tmp_path, monkeypatch):
    runs = [make_run("a<b>&c", network="Cnn<14>"), make_run("deep/a<b>&c", activation="softmax", accuracy=SCORES)]
    monkeypatch.setattr(figures, "can_draw", lambda: False)
    (tmp_path / "curves.png").write_bytes(b"an earlier one")
    (svg,) = write_learning_curves(runs, tmp_path, stem="curves")
    assert not (tmp_path / "curves.png").exists()
    text = "".join(ElementTree.fromstring(svg.read_text()).itertext())
    assert "2 runs: Cnn<14>, Cnn14" in text
    assert all(f"{run}: 0.6000 at 20" in text for run in runs)  # by their paths, for their names are the same
    assert "validation mAP" in text and "validation accuracy" in text


def test_a_run_that_has_just_begun_can_be_drawn(tmp_path):
    drawing = lay_out(learning_chart([Curve("run", "Cnn6", "mAP", (), ((0.0, 0.0),))]))
    assert "best" not in drawing.description
    assert "0.0000 at 0" in drawing.description


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


@given(st.lists(WORST | st.just("9" * 400) | st.just("[" * 100_000), min_size=4, max_size=4))
def test_a_run_of_any_numbers_is_drawn_or_refused_in_one_line(values):
    step, loss, score, best = values
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "training.json").write_text('{"asked": {"model": {"name": "Cnn6"}}}')
        row = '{"step": %s, "loss": %s, "mAP": %s, "best_step": %s}\n'
        (folder / "metrics.jsonl").write_text(row % (step, loss, score, best) + row % (2, 0.5, 0.5, 2))
        try:
            drawing = lay_out(learning_chart([read_curve(folder)]))
        except DataError as error:
            assert "\n" not in str(error) and "metrics.jsonl, line 1: " in str(error)
        else:
            ElementTree.fromstring(to_svg(drawing))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"asked": []}', '{"asked": {"model": {"name": "a", "activation": []}}}']
)
def test_a_damaged_training_json_is_refused_in_one_line(make_run, text):
    run = make_run("run")
    (run / "training.json").write_text(text)
    with pytest.raises(DataError, match=r"^[^\n]*training\.json: cannot be read as [^\n]*$"):
        read_curve(run)


@given(
    st.lists(st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-9), min_size=1, max_size=5),
)
def test_a_linear_axis_holds_its_values_between_round_ticks(values):
    axis = linear_axis(values, 0, 100)
    assert all(-1e-6 <= axis(value) <= 100 + 1e-6 for value in values)
    assert 2 <= len(axis.ticks) <= 10
    assert (axis.ticks[0], axis.ticks[-1]) == (axis.low, axis.high)
    gaps = [later - earlier for earlier, later in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps), rel=1e-3)
    assert f"{gaps[0]:.0e}"[0] in "125"


@given(st.sampled_from(["training", "step", "loss", "mAP", "best_step", "line"]), ANY_VALUE)
def test_any_value_in_the_files_of_a_run_is_drawn_or_refused_in_one_line(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("run")
    row = {"step": 1, "loss": 0.5, "mAP": 0.5, "best_step": 0}
    rows = [value if place == "line" else row | ({place: value} if place in row else {}), row]
    asked = {"model": value if place == "training" else {"name": "Cnn14"}}
    (folder / "training.json").write_text(json.dumps({"asked": asked}, default=str))
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(each, default=str) for each in rows))
    try:
        lay_out(learning_chart([read_curve(folder)]))
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
