"""What all figures share: text fits, labels overlap nothing, axes are readable, files are the same bytes again."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.feedback import notes_to
from epanns.reporting.figures import style as canvas
from epanns.reporting.figures.style import paper_style, save, shortened, text_width, wrapped
from tests.reporting.drawn import overlapping, texts_of


@pytest.fixture
def all_formats(monkeypatch):
    monkeypatch.setattr(canvas, "FORMATS", (".svg", ".pdf", ".png"))


@paper_style()
def figure_of(text):
    figure = canvas.new_figure(4)
    canvas.Heading(text, text, 8).draw(figure, 0.2, 0.1)
    axes = canvas.add_axes(figure, 1, 1.5, 7, 1.5)
    axes.plot([0, 1], [0.2, 0.7])
    return figure


def test_the_same_figure_gives_the_same_bytes(tmp_path, all_formats):
    first = [path.read_bytes() for path in save(figure_of("title"), tmp_path / "a", "figure", title="a figure")]
    again = [path.read_bytes() for path in save(figure_of("title"), tmp_path / "b", "figure", title="a figure")]
    assert first == again
    assert [content[:5] for content in first] == [b"<?xml", b"%PDF-", b"\x89PNG\r"]
    assert b"<title>a figure</title>" in first[0] and b"</text>" in first[0]
    assert b"Date" not in first[1]


def test_images_are_left_out_and_older_ones_removed(tmp_path, all_formats):
    assert len(save(figure_of("a"), tmp_path, "figure", title="a")) == 3
    assert save(figure_of("a"), tmp_path, "figure", title="a", images=False) == (tmp_path / "figure.svg",)
    assert [path.name for path in tmp_path.iterdir()] == ["figure.svg"]


def test_a_figure_is_as_wide_as_a_column_and_its_text_has_7_to_8_points():
    figure = figure_of("title")
    assert figure.get_size_inches()[0] * 2.54 == pytest.approx(8.5)
    assert {text.get_fontsize() for text in texts_of(figure)} <= {7.0, 7.5, 8.0}


def test_settings_of_matplotlib_are_left_as_they_were():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure_of("title")
    assert dict(matplotlib.rcParams) == before


def test_text_cannot_become_markup(tmp_path):
    (path,) = save(figure_of('<script>"&\x00 ]]> 音 $x^2$ \ud800'), tmp_path, "figure", title="<b>\x1b&")
    svg = path.read_text()
    assert "<script" not in svg and "<b>" not in svg
    texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert '<script>"&\\x00 ]]> 音 $x^2$ \\ud800' in texts


def test_letters_that_the_font_lacks_are_noted_once(tmp_path, all_formats):
    notes: list[str] = []
    with notes_to(notes.append):
        files = save(figure_of("दिन 👩"), tmp_path, "a", title="a name")
    lacking = f"{tmp_path}/a: PDF and PNG lack letters that are missing from matplotlib's font; the SVG has all letters"
    assert notes == [lacking]
    assert all(file.stat().st_size > 0 for file in files)


def test_the_style_is_valid_and_has_the_colours_of_okabe_and_ito():
    import matplotlib

    with paper_style():
        colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(colours)) == 8
    assert [colour.lstrip("#") for colour in colours[:3]] == ["0072B2", "D55E00", "009E73"]


def test_wrapped_text_is_the_text():
    text = "base training batch size 32, " * 20 + "x" * 300
    lines = wrapped(text, 5)
    assert all(text_width(line) <= 5 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", 5) == [""]
    assert shortened("short", 5) == "short"
    assert text_width(shortened("long" * 100, 5)) <= 5 and shortened("long" * 100, 5).endswith("…")


@pytest.mark.parametrize("letter", ["x", "W", "i i "])
def test_a_legend_stays_within_its_width(letter):
    with paper_style():
        from matplotlib.lines import Line2D

        texts = [letter * 150, "a", "b" * 20, letter, "c"]
        legend = canvas.Legend([(Line2D([], []), text) for text in texts], 8.1)
        figure = canvas.new_figure(legend.height + 0.4)
        legend.draw(figure, 0.2, 0.2)
        boxes = [text.get_window_extent() for text in texts_of(figure)]
        width, height = figure.get_size_inches() * 72
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    assert not overlapping(figure)


@pytest.mark.parametrize("values", [[4.5e6], [1, 3], [2e5, 8e7], [1e3, 1e11], [4.6e6, 4.7e6, 4.8e6], [6.2e7, 1.1e8]])
@pytest.mark.parametrize("width", [3.35, 7.0])
def test_a_log_axis_holds_its_values_and_ticks_that_do_not_touch(values, width):
    with paper_style():
        figure = canvas.new_figure(3)
        axes = canvas.add_axes(figure, 1, 0.5, width, 1.5)
        low, high = canvas.set_log_axis(axes, values, width)
    assert low < min(values) <= max(values) < high
    assert (low, high) == axes.get_xlim()
    ticks = [label for label in axes.get_xticklabels() if label.get_text()]
    assert 2 <= len(ticks) <= 10
    assert not overlapping(figure)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)), min_size=1, max_size=6, unique=True))
def test_labels_of_points_do_not_overlap(points):
    with paper_style():
        figure = canvas.new_figure(6)
        axes = canvas.add_axes(figure, 1, 0.5, 7, 5)
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        labels = canvas.Labels(axes)
        for number, (x, y) in enumerate(points):
            labels.keep_off((x, y), has_marks=True)
            labels.add(x, y, f"label {number}")
        labels.add(0.5, 0.5, "")
        labels.place()
    assert sorted(text.get_text() for text in axes.texts) == sorted(f"label {n}" for n in range(len(points)))
    assert not overlapping(figure)
    outer = axes.bbox
    for text in axes.texts:
        box = text.get_window_extent()
        assert outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1
        inside = [p for p in points if box.contains(*axes.transData.transform(p))]
        assert not inside, "a label covers a mark"


def test_fonts_of_the_svg_have_common_replacements(tmp_path):
    (path,) = save(figure_of("title"), tmp_path, "figure", title="a figure")
    assert re.search("font-family: .*'DejaVu Sans'.*sans-serif", path.read_text())
