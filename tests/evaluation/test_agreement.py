"""Agreement of two networks: closed forms, slow references, and the laws of its three numbers."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epanns.errors import ConfigError, DataError
from epanns.evaluation.agreement import agreement, own_tags, rank_correlation
from epanns.evaluation.predict import Predictions
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.labels import LabelSet
from epanns.statistics.bootstrap import (
    mean_correlation_interval,
    mean_interval,
    resampled_weights,
    weighted_correlation,
)

WHOLE = EvaluationProtocol()


def predictions(logits, task="multi-label"):
    """Predictions whose scores are the sigmoid or the softmax of float32 logits."""
    logits = np.asarray(logits, np.float32)
    wide = logits.astype(float)
    exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    scores = softmax if task == "single-label" else 1 / (1 + np.exp(-wide))
    ids = tuple(f"clip{index}" for index in range(len(logits)))
    return Predictions(ids, scores, np.zeros((len(logits), 2), bool), task=task, logits=logits)


def compared(pruned, dense, **options):
    return agreement(pruned, dense, LabelSet.numbered(dense.scores.shape[1]), WHOLE, **({"bootstrap": 0} | options))


def drawn(seed=0, clips=80, classes=6, noise=0.0, mean=-1.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(mean, 2.0, (clips, classes))
    return logits + noise * np.random.default_rng(seed + 1).normal(size=logits.shape)


def slow_tau_b(one, other):
    """Pairs in the same order less pairs in opposite orders, over the pairs that are not tied in each."""
    pairs = list(combinations(range(len(one)), 2))
    signs = [(np.sign(one[i] - one[j]), np.sign(other[i] - other[j])) for i, j in pairs]
    untied = [sum(sign[place] != 0 for sign in signs) for place in (0, 1)]
    return sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1]) if all(untied) else math.nan


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_equal_networks_agree_completely(task):
    network = predictions(drawn(), task)
    found = compared(network, network, bootstrap=30, group_pattern="(.)$")
    assert (found.correlation, found.tag_mAP, found.tau) == (1.0, 1.0, pytest.approx(1.0, abs=1e-12))
    for intervals in (found.intervals, found.by_group):
        assert intervals.tau == pytest.approx((1.0, 1.0), abs=1e-12)
        assert (intervals.correlation, intervals.tag_mAP) == ((1.0, 1.0), (1.0, 1.0))


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 6))
def test_any_network_agrees_with_itself_completely(seed, clips, classes):
    network = predictions(drawn(seed, clips, classes))
    found = compared(network, network)
    assert found.correlation == 1.0
    assert found.tau == pytest.approx(1.0, abs=1e-12)
    assert found.tag_mAP is None or found.tag_mAP == pytest.approx(1.0, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_tau_depends_on_the_order_of_the_classes_alone_and_is_symmetric(seed):
    one, other = drawn(seed, 4, 9), drawn(seed, 4, 9, noise=2.0)
    tau = rank_correlation(one, other)
    assert rank_correlation(np.exp(one / 3), other) == pytest.approx(tau, abs=1e-12)
    assert rank_correlation(one, 5 * other - 2) == pytest.approx(tau, abs=1e-12)
    assert rank_correlation(other, one) == pytest.approx(tau, abs=1e-12)
    assert rank_correlation(one, -other) == pytest.approx(-tau, abs=1e-12)


@settings(deadline=None)
@given(arrays(np.int8, (2, 3, 7), elements=st.integers(0, 4)))
def test_tau_is_that_of_all_pairs_with_ties(values):
    found = rank_correlation(*values.astype(float))
    expected = [slow_tau_b(*rows) for rows in zip(*values.astype(float), strict=True)]
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_one_class_has_no_ranking():
    found = compared(predictions(drawn(classes=1)), predictions(drawn(classes=1)))
    assert (found.tau, found.n_clips_without_ranking, found.correlation) == (None, 80, 1.0)


def test_tau_of_one_swapped_pair():
    """One of the three pairs is in opposite orders: (2 - 1) / 3."""
    assert rank_correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]])) == pytest.approx([1 / 3])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_correlation_is_that_of_numpy_on_the_clips_as_often_as_they_are_drawn(seed, rows):
    one, other = drawn(seed, 12, 3), drawn(seed, 12, 3, noise=1.0)
    weights = np.random.default_rng(seed).integers(0, 3, (rows, 12)).astype(float)
    assume((np.count_nonzero(weights, axis=1) > 1).all())
    found = weighted_correlation(one, other, weights)
    for row, counts in zip(found, weights.astype(int), strict=True):
        clips = np.repeat(np.arange(12), counts)
        expected = [np.corrcoef(one[clips, column], other[clips, column])[0, 1] for column in range(3)]
        assert row == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
def test_correlation_does_not_depend_on_gain_and_offset(seed, gain, offset):
    one, other = drawn(seed, 12, 3), drawn(seed, 12, 3, noise=1.0)
    weights = np.ones((1, 12))
    found = weighted_correlation(one, other, weights)
    assert weighted_correlation(gain * one + offset, other, weights) == pytest.approx(found, abs=1e-9)
    assert weighted_correlation(-one, other, weights) == pytest.approx(-found, abs=1e-12)


def test_classes_and_clips_that_do_not_vary_are_left_out_and_counted():
    logits = drawn(classes=4)
    dense, dead = predictions(logits), logits.copy()
    dead[:, 1] = -0.7
    dead[:, 2] = np.float32(-3) + np.float32(2.4e-7) * (np.arange(len(dead)) % 2)  # roundings of one value
    dead[5] = 0.25
    dead[5, 1:3] = dead[4, 1:3]
    dead[:, 2][5] = dead[4, 2]
    found = compared(predictions(dead), dense, bootstrap=20)
    assert found.constant_classes == ("class_1", "class_2")
    assert [row.correlation is None for row in found.per_class] == [False, True, True, False]
    expected = [np.corrcoef(dead[:, column], logits[:, column])[0, 1] for column in (0, 3)]
    assert found.correlation == pytest.approx(np.mean(expected), abs=1e-6)
    flat = logits.copy()
    flat[7] = 0.25
    found = compared(predictions(flat), dense, bootstrap=20)
    assert found.n_clips_without_ranking == 1
    kept = np.arange(len(flat)) != 7
    assert found.tau == pytest.approx(rank_correlation(flat[kept], logits[kept]).mean(), abs=1e-12)


def test_a_network_without_any_variation_has_no_numbers_instead_of_wrong_ones():
    dense = predictions(drawn())
    found = compared(predictions(np.full((80, 6), -2.0)), dense, bootstrap=20)
    assert (found.correlation, found.tau) == (None, None)
    assert (found.intervals.correlation, found.intervals.tau) == (None, None)
    assert len(found.constant_classes) == 6
    assert found.n_clips_without_ranking == 80
    shares = [row.n_tagged / 80 for row in found.per_class if row.ap is not None]
    assert found.tag_mAP == pytest.approx(np.mean(shares))  # one tie of all clips: the precision is the share of tags


def test_own_tags_are_as_many_scores_as_the_network_expects():
    scores = np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.1], [0.05, 0.1, 0.05]])  # the sum is 3
    tags, threshold = own_tags(scores)
    assert threshold == 0.7
    assert tags.tolist() == [[True, False, False], [True, True, False], [False, False, False]]
    tags, threshold = own_tags(np.full((2, 2), 0.1))  # at least one, and all with its score
    assert (tags.all(), threshold) == (True, 0.1)


@given(st.integers(0, 2**32 - 1))
def test_no_score_outside_the_own_tags_is_higher_than_one_inside(seed):
    scores = predictions(drawn(seed, 9, 5)).scores
    tags, threshold = own_tags(scores)
    assert tags.sum() == max(1, round(scores.sum()))
    assert scores[tags].min() == threshold
    assert (scores[~tags] < threshold).all()


def test_the_own_tags_of_a_softmax_are_one_for_each_clip_on_average():
    assert own_tags(predictions(drawn(), "single-label").scores)[0].sum() == 80


def test_average_precision_of_own_tags_in_closed_form():
    """Three tags of eight clips; the pruned network ranks them 1, 2 and 4: (1/1 + 2/2 + 3/4) / 3."""
    dense = np.full((8, 3), -9.0)
    dense[[0, 1, 2], 0] = 9.0  # the scores' sum is 3
    pruned = np.full((8, 3), -9.0)
    pruned[:, 0] = [8.0, 7.0, 5.0, 6.0, 4.0, 3.0, 2.0, 1.0]
    found = compared(predictions(pruned), predictions(dense))
    assert (found.n_tags, found.tag_mAP) == (3, pytest.approx(11 / 12))
    assert found.classes_without_tags == ("class_1", "class_2")


def test_classes_without_tags_with_few_and_with_all_are_counted_apart():
    dense = np.full((10, 5), -20.0)
    dense[:, 0] = 20.0
    dense[:4, 1] = 20.0
    dense[:2, 2] = 20.0
    dense[0, 3] = 20.0
    found = compared(predictions(dense - drawn(0, 10, 5)), predictions(dense))
    assert found.classes_tagged_in_all == ("class_0",)
    assert found.classes_with_few_tags == ("class_2", "class_3")
    assert found.classes_without_tags == ("class_4",)
    assert [row.n_tagged for row in found.per_class] == [10, 4, 2, 1, 0]
    assert [row.ap is None for row in found.per_class] == [True, False, True, True, True]
    assert found.tag_mAP == found.per_class[1].ap


def test_logits_of_a_softmax_are_compared_up_to_a_constant_of_the_clip():
    logits = drawn()
    shifted = logits + np.random.default_rng(3).normal(0, 9, (len(logits), 1))
    assert compared(*(predictions(each, "single-label") for each in (shifted, logits))).correlation == pytest.approx(1)
    assert compared(*map(predictions, (shifted, logits))).correlation < 0.5


def test_more_noise_agrees_less():
    dense = predictions(drawn(clips=200))
    found = [compared(predictions(drawn(clips=200, noise=noise)), dense) for noise in (0.1, 1.0, 3.0)]
    for name in ("correlation", "tag_mAP", "tau"):
        values = [getattr(each, name) for each in found]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 3


def test_intervals_are_those_of_slow_resamples():
    logits, other = drawn(noise=1.0), drawn()
    tau = rank_correlation(logits, other)
    tau[3] = math.nan
    correlations, means = [], []
    for weights in np.concatenate([*resampled_weights(80, 50, 4)]).astype(int):
        clips = np.repeat(np.arange(80), weights)
        correlations.append(np.mean([np.corrcoef(logits[clips, at], other[clips, at])[0, 1] for at in range(6)]))
        means.append(np.nanmean(tau[clips]))
    for found, values in (
        (mean_correlation_interval(logits, other, resamples=50, seed=4), correlations),
        (mean_interval(tau, resamples=50, seed=4), means),
    ):
        assert found == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-9)
    assert mean_correlation_interval(logits, other, resamples=0) is None
    assert mean_interval(np.full(5, math.nan)) is None


def test_the_means_lie_in_their_intervals():
    found = compared(predictions(drawn(noise=1.0, mean=-2.5)), predictions(drawn(mean=-2.5)), bootstrap=500)
    for name in ("correlation", "tag_mAP", "tau"):
        low, high = getattr(found.intervals, name)
        assert low < getattr(found, name) < high


def test_predictions_that_cannot_be_compared_are_refused():
    network = predictions(drawn())
    with pytest.raises(DataError, match=r"of \(80, 6\) clips and classes and of \(79, 6\): must be of the same clips"):
        compared(network, predictions(drawn()[:79]))
    with pytest.raises(DataError, match="must be of the same clips and classes"):
        compared(replace(network, clip_ids=network.clip_ids[::-1]), network)
    with pytest.raises(DataError, match=r"predictions without logits: must have .* make them with epanns\.predict"):
        compared(replace(network, logits=None), network)
    with pytest.raises(ConfigError, match="is no regular expression"):
        compared(network, network, group_pattern="(")
