"""The resampled mAP is scikit-learn's on the resampled clips."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from epanns.seeding import numpy_generator
from epanns.statistics.bootstrap import (
    mean_average_precision_interval,
    mean_interval,
    resampled_weights,
)


def draw(seed, clips=40, classes=5):
    rng = np.random.default_rng(seed)
    target = rng.random((clips, classes)) < 0.3
    return target, np.round(rng.random((clips, classes)) + 0.4 * target, 1)


def test_interval_equals_a_slow_bootstrap_over_the_same_draws():
    target, scores = draw(0)
    n_clips = len(target)
    draws = numpy_generator("bootstrap", 3).multinomial(n_clips, np.full(n_clips, 1 / n_clips), size=200)
    means = []
    for row in draws:
        copies = np.repeat(np.arange(n_clips), row)
        columns = [c for c in range(target.shape[1]) if target[copies, c].any()]
        means.append(np.mean([average_precision_score(target[copies, c], scores[copies, c]) for c in columns]))
    expected = np.quantile(means, [0.025, 0.975])
    found = mean_average_precision_interval(target, scores, resamples=200, seed=3)
    assert found == pytest.approx(tuple(expected), abs=1e-12)


def test_interval_of_accuracy_is_of_the_same_draws():
    is_right = np.random.default_rng(4).random(40) < 0.7
    draws = numpy_generator("bootstrap", 3).multinomial(40, np.full(40, 1 / 40), size=200)
    expected = np.quantile([np.mean(np.repeat(is_right, row)) for row in draws], [0.025, 0.975])
    assert mean_interval(is_right, resamples=200, seed=3) == pytest.approx(tuple(expected), abs=1e-12)
    assert mean_interval(is_right, resamples=0) is None


def test_interval_depends_on_the_seed_alone():
    target, scores = draw(1)
    one = mean_average_precision_interval(target, scores, resamples=100, seed=0)
    assert one == mean_average_precision_interval(target, scores, resamples=100, seed=0)
    assert one != mean_average_precision_interval(target, scores, resamples=100, seed=1)


def test_interval_narrows_with_more_clips():
    widths = []
    for clips in (50, 800):
        low, high = mean_average_precision_interval(*draw(2, clips=clips), resamples=200)
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_resamples_in_which_no_class_has_a_positive_do_not_count():
    target = np.array([[True], [False], [False]])
    assert mean_average_precision_interval(target, np.array([[0.9], [0.5], [0.1]]), resamples=100) == (1.0, 1.0)


def test_no_resamples_give_no_interval():
    assert mean_average_precision_interval(*draw(0), resamples=0) is None


def test_interval_by_group_equals_a_slow_bootstrap_that_draws_groups():
    target, scores = draw(5)
    groups = np.array([f"take {number % 7}" for number in range(len(target))])
    is_right = scores.argmax(axis=1) == target.argmax(axis=1)
    names = np.unique(groups)
    draws = numpy_generator("bootstrap by group", 3).multinomial(7, np.full(7, 1 / 7), size=50)
    means, accuracies = [], []
    for row in draws:
        copies = np.concatenate([np.flatnonzero(groups == name) for name in np.repeat(names, row)])
        columns = [c for c in range(target.shape[1]) if target[copies, c].any()]
        means.append(np.mean([average_precision_score(target[copies, c], scores[copies, c]) for c in columns]))
        accuracies.append(is_right[copies].mean())
    options = {"resamples": 50, "seed": 3, "groups": groups}
    found = mean_average_precision_interval(target, scores, **options)
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    expected = tuple(np.quantile(accuracies, [0.025, 0.975]))
    assert mean_interval(is_right, **options) == pytest.approx(expected, abs=1e-12)


def test_slices_of_recordings_have_a_wider_interval_by_group_and_groups_of_one_clip_the_same():
    """Eight copies of each clip: by clip the interval is sqrt(8) times too narrow."""
    is_right = np.random.default_rng(0).random(50) < 0.6
    recordings, slices = np.arange(50), np.repeat(np.arange(50), 8)

    def width(groups, right):
        low, high = mean_interval(right, resamples=2000, groups=groups)
        return high - low

    assert width(slices, is_right[slices]) == pytest.approx(width(recordings, is_right), abs=1e-12)
    assert width(slices, is_right[slices]) == pytest.approx(8**0.5 * width(None, is_right[slices]), rel=0.1)
    assert width(recordings, is_right) == pytest.approx(width(None, is_right), rel=0.1)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 9))
def test_a_resample_has_as_many_groups_as_there_are_and_whole_ones(n_clips, n_groups, seed):
    groups = np.arange(n_clips) % n_groups
    (weights,) = resampled_weights(n_clips, 20, seed, groups=groups)
    assert weights.shape == (20, n_clips)
    by_group = [weights[:, groups == group] for group in np.unique(groups)]
    assert all((counts == counts[:, :1]).all() for counts in by_group)
    assert (sum(counts[:, 0] for counts in by_group) == len(by_group)).all()
