import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from epanns.data.audioset import OTHER_SEGMENT, Segment, segment_of_name

video_ids = st.text(string.ascii_letters + string.digits + "-_", min_size=11, max_size=11)
tricky_ids = st.one_of(
    video_ids, video_ids.map(lambda text: "Y" + text[1:]), video_ids.map(lambda text: text[:8] + "_30")
)
starts = st.one_of(st.integers(0, 3000).map(float), st.integers(0, 30_000).map(lambda tenths: tenths / 10))


def segment(start=30.0, end=40.0):
    return Segment(start, end, ("Speech",), "eval")


def times_as_written(start, end):
    """Every way in which names give times, with how exact each is."""
    return [
        ("", 0),
        *((f"_{form(start)}", 1) for form in FORMS),
        *((f"_{form(start)}{between}{form(end)}", 2) for form in FORMS for between in "_-"),
    ]


FORMS = [
    str,  # 30.0
    "{:.3f}".format,  # 30.000
    lambda seconds: str(int(seconds)),  # 30, cut
    lambda seconds: f"{int(seconds):06d}",  # 000030
    "{:.0f}".format,  # 30, rounded
    lambda seconds: str(round(1000 * seconds)),  # milliseconds
]


@given(tricky_ids, starts, st.sampled_from(["", "Y"]), st.sets(tricky_ids, max_size=3))
def test_every_form_of_a_name_means_its_own_segment(video_id, start, prefix, others):
    mine = segment(start, start + 10)
    segments = {other: segment() for other in others} | {video_id: mine}
    for times, exactness in times_as_written(start, start + 10):
        found = segment_of_name(f"{prefix}{video_id}{times}", segments)
        assert found is not None
        assert found[0] is mine
        assert found[1] == exactness


@given(tricky_ids, st.integers(0, 600), st.integers(0, 600), st.sampled_from(["", "Y"]))
def test_other_segments_of_a_video_are_told_apart(video_id, listed, other, prefix):
    # 1000 s of one segment and 1 s of another in milliseconds are written alike.
    assume(other not in (listed, 1000 * listed) and listed != 1000 * other)
    segments = {video_id: segment(float(listed), float(listed + 10))}
    for times, exactness in times_as_written(float(other), float(other + 10)):
        found = segment_of_name(f"{prefix}{video_id}{times}", segments)
        assert found == (segments[video_id], OTHER_SEGMENT if exactness else 0)


@given(tricky_ids, tricky_ids, st.sampled_from(["", "Y"]))
def test_a_name_of_an_unknown_video_means_nothing(video_id, known, prefix):
    for times, _ in times_as_written(30.0, 40.0):
        name = f"{prefix}{video_id}{times}"
        assume(known not in (name[:11], name[1:12]))
        assert segment_of_name(name, {known: segment()}) is None


@pytest.mark.parametrize(
    "stem",
    [
        "--PJHxphWEs_30.000_40.000_50",
        "--PJHxphWEs_",
        "--PJHxphWEs_30_",
        "--PJHxphWEs_-30",
        "--PJHxphWEs_3O",
        "--PJHxphWEs30",
        "--PJHxphWEs (1)",
        "y--PJHxphWEs",
        "YY--PJHxphWEs",
        "--PJHxphWE",
        "",
    ],
)
def test_what_is_no_such_name_means_nothing(stem):
    assert segment_of_name(stem, {"--PJHxphWEs": segment()}) is None


@pytest.mark.parametrize(
    ("times", "exactness"),
    [
        ("_30_40", 2),
        ("_30_39", OTHER_SEGMENT),
        ("_30_4", OTHER_SEGMENT),
        ("_31", OTHER_SEGMENT),
        ("_29.5", OTHER_SEGMENT),
        ("_30.04", OTHER_SEGMENT),
        ("_30000_40000", 2),
        ("_30000_40", OTHER_SEGMENT),
        ("_30000.0", OTHER_SEGMENT),
        ("_٣٠", None),
    ],
)
def test_times_must_be_the_listed_ones_in_one_unit(times, exactness):
    found = segment_of_name(f"--PJHxphWEs{times}", {"--PJHxphWEs": segment()})
    assert (found and found[1]) == exactness
