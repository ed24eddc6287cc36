"""The resampled mAP is scikit-learn's on the resampled clips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from epanns.evaluation.bootstrap import accuracy_interval, mean_average_precision_interval, weighted_average_precision
from epanns.seeding import numpy_generator


def draw(seed, clips=40, classes=5):
    rng = np.random.default_rng(seed)
    target = rng.random((clips, classes)) < 0.3
    return target, np.round(rng.random((clips, classes)) + 0.4 * target, 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30))
def test_weighted_average_precision_equals_scikit_learn(seed, clips):
    rng = np.random.default_rng(seed)
    truth, score = rng.random(clips) < 0.5, rng.integers(0, 6, clips) / 5
    weights = rng.integers(0, 4, (3, clips)).astype(float)
    for row, found in zip(weights, weighted_average_precision(truth, score, weights), strict=True):
        copies = np.repeat(np.arange(clips), row.astype(int))
        if truth[copies].any():
            assert found == pytest.approx(average_precision_score(truth[copies], score[copies]), abs=1e-12)
        else:
            assert np.isnan(found)


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
    assert accuracy_interval(is_right, resamples=200, seed=3) == pytest.approx(tuple(expected), abs=1e-12)
    assert accuracy_interval(is_right, resamples=0) is None


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
