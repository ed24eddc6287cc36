"""Charts: ticks are round and within the axis, marks are at their values."""

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from epanns.reporting.page.svg import MARKS, Axis, Chart

VALUES = st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=5)


@given(VALUES, st.booleans())
def test_an_axis_holds_its_values_and_has_few_ticks(values, is_log):
    axis = Axis.around("x", values, is_log=is_log)
    assert all(0 < axis.place(value) < 1 for value in values)
    ticks = axis.ticks()
    assert len(ticks) <= 8
    assert all(axis.low <= value <= axis.high for value, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks) or axis.high / axis.low < 1.1


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_place_is_linear_or_logarithmic(low, high):
    assume(high > 1.01 * low)
    assert abs(Axis("x", low, high).place((low + high) / 2) - 0.5) < 1e-9
    assert abs(Axis("x", low, high, is_log=True).place((low * high) ** 0.5) - 0.5) < 1e-9


def test_a_mark_is_at_its_values_with_a_bar_of_its_deviation():
    chart = Chart("t", Axis("x", 0, 10), Axis("y", 0, 1))
    chart.mark((5, 0.5), MARKS[0], "c0", "<title>", row=3, sd=0.25)
    svg = chart.to_svg()
    (x, y) = re.search(r"class=\"mark\" transform=\"translate\(([\d.]+) ([\d.]+)\)", svg).groups()
    left, low, high = re.search(r'class="bar" d="M([\d.]+) ([\d.]+)V([\d.]+)"', svg).groups()
    assert (x, left) == ("241.0", "241.0")
    assert float(y) == (float(low) + float(high)) / 2
    assert "<title>&lt;title&gt;</title>" in svg


def test_a_front_rises_in_steps_and_runs_to_the_end():
    chart = Chart("t", Axis("x", 0, 10), Axis("y", 0, 1))
    chart.step([(2, 0.2), (4, 0.6)])
    (path,) = re.findall(r'class="line front" d="M([^"]*)"', chart.to_svg())
    places = [tuple(map(float, place.split())) for place in path.split("L")]
    assert [x for x, _ in places] == [130.0, 204.0, 204.0, 426.0]
    assert places[0][1] == places[1][1] > places[2][1] == places[3][1]
