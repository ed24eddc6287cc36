"""Splits are drawn by class, and no group is in two of them; groups are found by a pattern."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.data.datasets.splits import groups_by_pattern, stratify
from epanns.errors import ConfigError, DataError

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


@st.composite
def data_sets(draw, most_labels=3):
    n_clips = draw(st.integers(1, 60))
    group = st.sampled_from([f"group {number}" for number in range(draw(st.integers(1, 20)))])
    label = st.integers(0, 4)
    groups = draw(st.lists(group, min_size=n_clips, max_size=n_clips))
    labels = [draw(st.lists(label, max_size=most_labels, unique=True)) for _ in range(n_clips)]
    return groups, labels


@settings(max_examples=50)
@given(data_sets(), st.integers(0, 9))
def test_no_group_is_in_two_splits_for_any_order_of_clips(data_set, seed):
    groups, labels = data_set
    sides = stratify(groups, labels, FRACTIONS, num_classes=5, seed=seed)
    assert len(set(zip(groups, sides, strict=True))) == len(set(groups))
    again = stratify(groups[::-1], labels[::-1], FRACTIONS, num_classes=5, seed=seed)
    assert again[::-1] == sides


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=10, max_size=10), st.integers(0, 99))
def test_a_class_is_in_every_split_if_possible(sizes, seed):
    """Ten classes; the clips of a group have one class."""
    groups = [f"{index} {size}" for index, size in enumerate(sizes) for _ in range(size)]
    labels = [[index] for index, size in enumerate(sizes) for _ in range(size)]
    alone = [f"{group} {number}" for number, group in enumerate(groups)]
    sides = stratify(alone, labels, FRACTIONS, num_classes=10, seed=seed)
    for index, size in enumerate(sizes):
        counts = Counter(side for side, (label,) in zip(sides, labels, strict=True) if label == index)
        assert len(counts) == min(size, 3) or size < 3
        for side, share in FRACTIONS.items():
            assert abs(counts[side] - share * size) < (2.01 if side == "train" else 1.01) or size < 3


def test_splits_have_their_fractions_of_all_clips():
    labels = [[index] for index in range(10) for _ in range(8)]
    sides = stratify([str(n) for n in range(80)], labels, {"train": 0.8, "val": 0.2}, num_classes=10, seed=3)
    assert Counter(sides) == {"train": 64, "val": 16}


def test_a_group_is_moved_where_the_first_draw_leaves_a_class_out():
    """Pairs of classes in each group: for every seed all five classes are on both sides."""
    groups = [f"g{number}" for number in range(10)]
    labels = [[number % 5, (number + 1 + number // 5) % 5] for number in range(10)]
    for seed in range(50):
        sides = stratify(groups, labels, {"train": 0.9, "val": 0.1}, num_classes=5, seed=seed)
        for side in ("train", "val"):
            there = [given for own, given in zip(sides, labels, strict=True) if own == side]
            assert {label for given in there for label in given} == {*range(5)}


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(30, 60))
def test_one_more_clip_of_a_class_moves_at_most_three_others(seed, n_clips):
    ids = [f"clip {number}" for number in range(n_clips + 1)]
    before = stratify(ids[:-1], [[0]] * n_clips, FRACTIONS, num_classes=1, seed=seed)
    after = stratify(ids, [[0]] * (n_clips + 1), FRACTIONS, num_classes=1, seed=seed)
    assert sum(one != other for one, other in zip(before, after, strict=False)) <= 3


def test_another_seed_gives_another_draw_and_clips_that_do_not_count_are_drawn_too():
    ids = [str(number) for number in range(100)]
    draws = {tuple(stratify(ids, [[0]] * 50 + [[]] * 50, FRACTIONS, num_classes=1, seed=seed)) for seed in range(5)}
    assert len(draws) == 5
    assert all(set(sides[50:]) == set(FRACTIONS) for sides in draws)


def test_the_file_name_is_searched_before_the_whole_id():
    ids = ["1 - Dog/1-100-A.ogg", "2 - Rain/4-100-B.ogg", "2 - Rain/4-200-A.ogg"]
    assert groups_by_pattern("^[0-9]-([0-9]+)-", ids) == (["100", "100", "200"], "file name")
    assert groups_by_pattern("^([^/]+)/", ids) == (["1 - Dog", "2 - Rain", "2 - Rain"], "clip id")
    assert groups_by_pattern("(.)", []) == ([], "file name")


def test_a_clip_without_a_group_is_named_and_counted():
    message = "group pattern '([0-9]+)': finds no group for 2 of 3 clips, first 'b.wav'; write one that fits every file"
    with pytest.raises(DataError, match=re.escape(message)):
        groups_by_pattern("([0-9]+)", ["1.wav", "b.wav", "c.wav"])
    with pytest.raises(DataError, match="finds no group for 1 of 1 clips"):
        groups_by_pattern("a(b*)", ["a.wav"])  # an empty group is none


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"group pattern '\(': is no regular expression \(missing \), unterminated"),
        ("a", "group pattern 'a': has 0 capturing groups, must have exactly one"),
        ("(a)(b)", r"has 2 capturing groups, must have exactly one, .* write others as \(\?:...\)"),
        ("(a{99999999999})", "is no regular expression"),
    ],
)
def test_a_pattern_must_have_one_group(pattern, message):
    with pytest.raises(ConfigError, match=message):
        groups_by_pattern(pattern, ["a"])
