"""The figure: every result is in it, nothing is clipped or on top of a name, text cannot become markup."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations

import pytest

from epanns.feedback import notes_to
from epanns.reporting import figures, layout
from epanns.reporting.axes import log_axis, score_axis
from epanns.reporting.chart import Chart, Style
from epanns.reporting.drawing import Drawing, Label, Shape, Stroke, shortened, text_width, wrapped
from epanns.reporting.layout import PALETTE, lay_out
from epanns.reporting.pareto import pareto_chart
from epanns.reporting.placement import Box
from epanns.reporting.quoted import quoted_rows
from epanns.reporting.rows import rows_by_block
from epanns.reporting.svg import to_svg


def chart_of(records):
    return pareto_chart(rows_by_block(records), quoted_rows())


def texts_of(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def box_of(label):
    x, y = label.position
    width = text_width(label.text, label.size)
    left = {"start": x, "middle": x - width / 2, "end": x - width}[label.anchor]
    return Box(left, y - 0.8 * label.size, left + width, y + 0.2 * label.size)


def test_chart_keeps_measured_and_quoted_data_sets_apart(records):
    other = [replace(record, trial_id=f"x{record.trial_id}", dataset="ESC-50") for record in records]
    bands = chart_of([*records, *other]).bands
    assert [band.title for band in bands] == [
        "ESC-10, test (measured)",
        "ESC-50, test (measured)",
        "AudioSet (quoted, not measured here)",
        "FSD50K (quoted, not measured here)",
    ]
    hollow = [{s.style.is_hollow for panel in band.panels for s in panel.series} for band in bands]
    assert hollow == [{False}, {False}, {True}, {True}]


def test_lines_join_the_unpruned_network_and_every_ratio(records):
    panel = chart_of(records).bands[0].panels[0]
    joined = {series.style.marker: [(p.x, round(p.y, 3)) for p in series.points] for series in panel.series[:2]}
    assert joined == {
        "triangle": [(5e6, 0.81), (3e6, 0.61), (1.5e6, 0.31)],
        "circle": [(5e6, 0.83), (3e6, 0.83), (1.5e6, 0.81)],
    }
    assert [point.label for point in panel.series[1].points] == ["", "25 %", "50 %"]
    assert [point.label for point in panel.series[0].points] == ["", "", ""]


def test_error_bars_are_the_standard_deviation(records):
    rows = next(iter(rows_by_block(records).values()))
    panel = chart_of(records).bands[0].panels[1]
    assert panel.series[1].points[-1].error == rows[-1].mAP["finetuned"].sd


def test_svg_is_well_formed_and_says_everything(records):
    chart = chart_of(records)
    texts = texts_of(to_svg(lay_out(chart)))
    for band in chart.bands:
        assert band.title in texts
        assert all(entry.text in texts for entry in band.legend)
        for panel in band.panels:
            assert panel.x_label in texts
            assert {point.label for series in panel.series for point in series.points} - {""} <= set(texts)


def test_text_cannot_become_markup(records):
    name = '<script>"&\x00 ]]> 音'
    svg = to_svg(lay_out(chart_of([replace(record, dataset=name, model=name) for record in records])))
    assert "<script" not in svg
    assert '<script>"&\\x00 ]]> 音, test (measured)' in texts_of(svg)


def test_nothing_lies_outside_the_figure(records):
    drawing = lay_out(chart_of(records))
    for element in drawing.elements:
        points = [element.position] if isinstance(element, Label) else element.points
        assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in points)
        if isinstance(element, Label) and not element.is_upright:
            box = box_of(element)
            assert box.left >= 0
            assert box.right <= drawing.width


def test_no_name_lies_on_another_text_or_on_a_mark(records):
    drawing = lay_out(chart_of(records))
    labels = [element for element in drawing.elements if isinstance(element, Label) and not element.is_upright]
    for one, other in combinations(labels, 2):
        assert box_of(one).overlap(box_of(other)) == 0, (one.text, other.text)
    marks = [element for element in drawing.elements if isinstance(element, Shape)]
    for label in labels:
        for mark in marks:
            x = sum(point[0] for point in mark.points) / len(mark.points)
            y = sum(point[1] for point in mark.points) / len(mark.points)
            assert box_of(label).overlap(Box(x - 3, y - 3, x + 3, y + 3)) == 0, label.text


def test_records_without_scores_leave_no_empty_band(records):
    bare = [replace(record, stages=()) for record in records]
    assert pareto_chart(rows_by_block(bare), ()).bands == ()
    assert ElementTree.fromstring(to_svg(lay_out(Chart((), "nothing")))) is not None


def test_series_have_colours_of_their_own_however_many_they_are():
    colours = [layout.mark((0.0, 0.0), Style(number, "circle")).fill for number in range(3 * len(PALETTE))]
    assert len(set(colours)) == len(colours)
    assert colours[: len(PALETTE)] == list(PALETTE)


@pytest.mark.parametrize("values", [[4.5e6], [1, 3], [2e5, 8e7], [1e3, 1e11], [4.6e6, 4.7e6, 4.8e6]])
def test_log_axis_holds_its_values_and_has_a_readable_number_of_ticks(values):
    axis = log_axis(values, 0, 100)
    assert all(0 < axis(value) < 100 for value in values)
    assert 2 <= len(axis.ticks) <= 15
    assert axis(axis.low) == pytest.approx(0)
    assert axis(axis.high) == pytest.approx(100)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.431], [0.99, 1.0], [0.1, 0.85], [0.4, 0.44]])
def test_score_axis_holds_its_values_and_no_tick_beyond_one(values):
    axis = score_axis(values, 100, 0)
    assert all(0 <= axis(value) <= 100 for value in values)
    assert 2 <= len(axis.ticks) <= 9
    assert max(axis.ticks) <= 1


def test_matplotlib_draws_the_same_elements_and_the_same_bytes_again(tmp_path, records):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    drawing = lay_out(chart_of(records))
    assert {type(element) for element in drawing.elements} == {Stroke, Shape, Label}
    for name in ("figure.png", "figure.pdf"):
        figures.draw(drawing, tmp_path / name)
        first = (tmp_path / name).read_bytes()
        figures.draw(drawing, tmp_path / name)
        assert (tmp_path / name).read_bytes() == first
        assert len(first) > 5000


def two_bases(records, names=("", "")):
    """Return the records of two bases of one network, which differ in their training."""
    made = []
    for number, name in enumerate(names):
        for record in records:
            base = {**record.config.get("base", record.config), "training": {"iterations": 100 * (number + 1)}}
            config = base if record.config["kind"] == "base" else {**record.config, "base": base}
            made.append(replace(record, trial_id=f"{record.trial_id}-{number}", config=config, name=name))
    return made


def test_letters_that_the_font_lacks_are_noted_once(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    drawing = Drawing(90.0, 20.0, (Label((0.0, 9.0), "दिन 👩", 9.0),), "a name")
    notes: list[str] = []
    with notes_to(notes.append):
        figures.draw(drawing, tmp_path / "a.png")
        figures.draw(drawing, tmp_path / "a.pdf")
    assert notes == [f"{tmp_path}/a: PNG and PDF lack letters that matplotlib's font has not; the SVG has all"]
    assert (tmp_path / "a.pdf").stat().st_size > 0


def test_two_bases_of_one_network_have_two_names(records):
    (band,) = pareto_chart(rows_by_block(two_bases(records)), ()).bands
    stars = [series for series in band.panels[0].series if series.style.marker == "star"]
    assert [star.points[0].label for star in stars] == ["(1)", "(2)"]
    entries = [entry.text for entry in band.legend if entry.style.marker == "star"]
    assert entries == [
        "unpruned",
        "(1): unpruned, base training iterations 100",
        "(2): unpruned, base training iterations 200",
    ]


def test_names_that_people_gave_stand_beside_the_marks(records):
    (band,) = pareto_chart(rows_by_block(two_bases(records, ("short", "long"))), ()).bands
    stars = [series for series in band.panels[0].series if series.style.marker == "star"]
    assert [star.points[0].label for star in stars] == ["long", "short"]
    assert [entry.text for entry in band.legend if entry.style.marker == "star"] == ["unpruned"]
    assert band.legend[0].text == "long (Cnn14 × 0.25), l1, blocks 4–6, 300 iterations"
    for series in band.panels[0].series[:2]:  # each line begins at its own base
        assert series.points[0].x == 5e6


def test_a_budget_is_named_by_itself(records):
    cut = [replace(r, ratio=None, config={**r.config, "budget": "macs 0.25"}) for r in records if r.ratio == 0.5]
    (band,) = pareto_chart(rows_by_block([*(r for r in records if r.ratio != 0.5), *cut]), ()).bands
    labels = {point.label for series in band.panels[0].series for point in series.points}
    assert labels == {"", "25 %", "macs 0.25"}
    lines = [entry.text for entry in band.legend if entry.shows_line and not entry.shows_marker]
    assert sorted("budget of macs 0.25" in line for line in lines) == [False, True]  # no line joins the two


@pytest.mark.parametrize("letter", ["x", "W", "犬", "x y "])
def test_no_text_reaches_beyond_the_figure(records, letter):
    long = [replace(r, name=letter * 150, dataset=letter * 150, protocol="p " * 200) for r in two_bases(records)]
    drawing = lay_out(pareto_chart(rows_by_block(long), ()))
    for label in (element for element in drawing.elements if isinstance(element, Label) and not element.is_upright):
        assert box_of(label).left >= 0 and box_of(label).right <= drawing.width, label.text[:40]
        assert label.position[1] <= drawing.height


def test_wrapped_text_is_the_text():
    text = "base training batch size 32, " * 20 + "x" * 300
    lines = wrapped(text, 12, 300)
    assert all(text_width(line, 12) <= 300 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", 12, 300) == [""]
    assert shortened("short", 12, 300) == "short"
    assert shortened("long" * 100, 12, 300).endswith("…")


def test_scores_that_spread_over_the_whole_range_have_an_axis(records):
    apart = [replace(r, stages=(replace(r.stages[0], scores={"test": {"mAP": float(r.seed)}}),)) for r in records[:8:4]]
    assert {record.seed for record in apart} == {0, 1}
    lay_out(pareto_chart(rows_by_block(apart), ()))
    assert score_axis([-0.4, 1.4], 0, 1).ticks == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def test_text_of_a_figure_holds_no_control_characters(records):
    svg = to_svg(lay_out(chart_of([replace(record, dataset="a\x1b[2J\u202eb\ud800") for record in records])))
    assert r"a\x1b[2J\u202eb\ud800, test (measured)" in texts_of(svg)
