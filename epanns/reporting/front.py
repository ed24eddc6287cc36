"""The Pareto front: the networks of which no other is both cheaper and better."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points on the front, by rising cost.

    Args:
        points: Cost (lower is better) and score (higher is better) of each network. Of equal points the first counts.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front
