"""The average precision of many weightings at once is scikit-learn's, also with ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from epanns.statistics.average_precision import weighted_average_precision


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.sampled_from([2, 6, 1000]))
def test_it_equals_scikit_learn_on_copies_of_the_clips(seed, clips, n_values):
    rng = np.random.default_rng(seed)
    truth, score = rng.random(clips) < 0.5, rng.integers(0, n_values, clips) / n_values
    weights = rng.integers(0, 4, (clips, 3)).astype(float)
    for column, found in zip(weights.T, weighted_average_precision(truth, score, weights), strict=True):
        copies = np.repeat(np.arange(clips), column.astype(int))
        if truth[copies].any():
            assert found == pytest.approx(average_precision_score(truth[copies], score[copies]), abs=1e-12)
        else:
            assert np.isnan(found)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_it_equals_scikit_learn_with_fractions_as_weights(seed):
    rng = np.random.default_rng(seed)
    truth, score = np.arange(20) % 3 == 0, rng.integers(0, 8, 20) / 8
    weights = rng.random((20, 2)) * (rng.random((20, 2)) < 0.8)
    weights[truth.argmax()] = 1.0
    found = weighted_average_precision(truth, score, weights)
    expected = [average_precision_score(truth, score, sample_weight=column) for column in weights.T]
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_order_of_scores_decides_and_their_precision_does_not():
    rng = np.random.default_rng(3)
    truth, score, weights = rng.random(200) < 0.2, rng.random(200), np.ones((200, 1))
    found = weighted_average_precision(truth, score, weights)
    assert weighted_average_precision(truth, np.argsort(np.argsort(score)), weights) == found
    assert weighted_average_precision(truth, score.astype(np.float32), weights) == found
    assert weighted_average_precision(truth, np.zeros(200), weights) == pytest.approx(truth.mean())


def test_a_class_without_positives_has_none():
    assert np.isnan(weighted_average_precision(np.zeros(3, bool), np.arange(3.0), np.ones((3, 2)))).all()
