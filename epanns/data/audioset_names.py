"""Which segment of AudioSet a file holds, by its name.

Names in use: ``Y<id>.wav`` (PANNs), ``<id>.wav``, ``<id>_<start>.wav``, ``<id>_<start>_<end>.flac`` and
``<id>_<start>-<end>.wav``, times in seconds or in milliseconds. An id of YouTube is any 11 letters, digits, ``-`` and
``_``, so a name cannot be split at these; it is compared with the ids that the lists know.
"""

import re
from collections.abc import Mapping

from epanns.data.audioset_lists import Segment

_TIMES = re.compile(r"_(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?", re.ASCII)
_ID_LENGTH = 11

OTHER_SEGMENT = -1
"""Exactness of a name with other times than the list's: another segment of that video."""


def resolve(stem: str, segments: Mapping[str, Segment]) -> tuple[Segment, int] | None:
    """Return the segment of a known video that a file name, without its suffix, means.

    Returns:
        The segment and how exactly the name tells it: 0 by the id alone, 1 with its start, 2 with its end too,
        `OTHER_SEGMENT` where it tells another one. None where no known id fits.
    """
    other = None
    for first in (0, 1) if stem.startswith("Y") else (0,):
        segment = segments.get(stem[first : first + _ID_LENGTH])
        if segment is None:
            continue
        exactness = _exactness(stem[first + _ID_LENGTH :], segment)
        if exactness is not None and exactness != OTHER_SEGMENT:
            return segment, exactness
        if exactness == OTHER_SEGMENT:
            other = segment, OTHER_SEGMENT
    return other


def _exactness(rest: str, segment: Segment) -> int | None:
    """Judge what follows the id in a name; None where that is not times."""
    if not rest:
        return 0
    match = _TIMES.fullmatch(rest)
    if match is None:
        return None
    given = [(text, value) for text, value in zip(match.groups(), (segment.start, segment.end), strict=True) if text]
    in_seconds = all(_agrees(text, value) for text, value in given)
    in_milliseconds = all("." not in text and _agrees(text, 1000 * value) for text, value in given)
    if in_seconds or in_milliseconds:
        return len(given)
    return OTHER_SEGMENT


def _agrees(text: str, value: float) -> bool:
    """Whether a number as written is the value, rounded or cut to its digits."""
    unit = 10.0 ** -len(text.partition(".")[2])
    return abs(float(text) - value) < unit * (1 - 1e-6)
