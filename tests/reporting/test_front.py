"""The front is exactly the points that no other point beats."""

from hypothesis import given
from hypothesis import strategies as st

from epanns.reporting.front import pareto_front

POINT = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(st.lists(POINT))
def test_front_is_every_point_that_no_other_point_beats(points):
    def is_beaten(point):
        return any(other[0] <= point[0] and other[1] >= point[1] and other != point for other in points)

    front = [points[place] for place in pareto_front(points)]
    assert front == sorted({point for point in points if not is_beaten(point)})
