"""Metrics equal scikit-learn's own calls and brute force from the definitions."""

import math
import re
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, recall_score, roc_auc_score

from epanns.errors import DataError
from epanns.evaluation.metrics import average_precision, d_prime, evaluate, mean_loss, roc_auc
from epanns.evaluation.predict import Predictions
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.labels import LabelSet

WHOLE = EvaluationProtocol()


def draw(seed, clips=60, classes=7, levels=0):
    """Scores that correlate with the truth; `levels` > 0 makes ties."""
    rng = np.random.default_rng(seed)
    target = rng.random((clips, classes)) < 0.3
    scores = np.clip(rng.random((clips, classes)) * 0.7 + 0.3 * target, 0, 1)
    return target, np.round(scores * levels) / levels if levels else scores


def predictions(target, scores):
    return Predictions(tuple(f"clip{index}" for index in range(len(target))), scores.astype(float), target)


def brute_force_ap(truth, scores):
    """Sum over thresholds, from the highest: precision there times the recall gained."""
    ap, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        hits = (truth & chosen).sum()
        ap += hits / chosen.sum() * (hits / truth.sum() - recall)
        recall = hits / truth.sum()
    return ap


def brute_force_auc(truth, scores):
    """Share of pairs in which the positive clip scores higher; a tie counts half."""
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[truth] for n in scores[~truth]]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("levels", [0, 5], ids=["distinct", "tied"])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scikit_learn_and_brute_force(seed, levels):
    target, scores = draw(seed, levels=levels)
    result = evaluate(predictions(target, scores), LabelSet.numbered(7), WHOLE, bootstrap=0)
    assert result.mAP == pytest.approx(average_precision_score(target, scores, average="macro"), abs=1e-12)
    assert result.mAUC == pytest.approx(roc_auc_score(target, scores, average="macro"), abs=1e-12)
    for row in result.per_class:
        truth, score = target[:, row.index], scores[:, row.index]
        assert row.ap == pytest.approx(brute_force_ap(truth, score), abs=1e-12)
        assert row.auc == pytest.approx(brute_force_auc(truth, score), abs=1e-12)
        assert row.n_positive == truth.sum()


def test_metrics_do_not_depend_on_the_order_of_clips():
    target, scores = draw(0, levels=9)
    order = np.random.default_rng(1).permutation(len(target))
    one = evaluate(predictions(target, scores), LabelSet.numbered(7), WHOLE, bootstrap=0)
    other = evaluate(predictions(target[order], scores[order]), LabelSet.numbered(7), WHOLE, bootstrap=0)
    assert one.mAP == pytest.approx(other.mAP, abs=1e-12)
    assert one.mAUC == pytest.approx(other.mAUC, abs=1e-12)


def test_classes_without_positives_or_negatives_are_left_out_and_named():
    target, scores = draw(0, classes=4)
    target[:, 1], target[:, 2] = False, True
    result = evaluate(predictions(target, scores), LabelSet.of(["rain", "sea", "wind", "dog"]), WHOLE, bootstrap=50)
    scored = [0, 2, 3]
    assert result.n_classes_scored == 3
    assert result.classes_without_positives == ("sea",)
    assert [row.ap is None for row in result.per_class] == [False, True, False, False]
    assert [row.auc is None for row in result.per_class] == [False, True, True, False]
    assert result.mAP == pytest.approx(average_precision_score(target[:, scored], scores[:, scored], average="macro"))
    assert result.mAUC == pytest.approx(roc_auc_score(target[:, [0, 3]], scores[:, [0, 3]], average="macro"))


def test_undefined_auc_leaves_map_defined():
    target = np.ones((3, 1), bool)
    result = evaluate(predictions(target, np.array([[0.1], [0.5], [0.2]])), LabelSet.numbered(1), WHOLE, bootstrap=0)
    assert (result.mAP, result.mAUC, result.d_prime) == (1.0, None, None)
    assert np.isnan(roc_auc(target, np.zeros((3, 1)))).all()
    assert np.isnan(average_precision(~target, np.zeros((3, 1)))).all()


def test_no_positive_at_all_is_an_error():
    nothing = predictions(np.zeros((5, 3), bool), np.zeros((5, 3)))
    message = "none of 3 classes has a positive among 5 clips: mAP needs labelled clips"
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate(nothing, LabelSet.numbered(3), WHOLE)


@given(st.floats(0.01, 0.99))
def test_d_prime_inverts_the_auc_of_two_normals(auc):
    assert NormalDist().cdf(d_prime(auc) / math.sqrt(2)) == pytest.approx(auc, abs=1e-12)


def test_d_prime_is_that_of_the_paper_and_none_where_infinite():
    assert d_prime(0.973) == pytest.approx(2.725, abs=1e-3)  # Kong et al. 2020, Cnn14: .973 and 2.732 before rounding
    assert d_prime(0.5) == pytest.approx(0.0, abs=1e-12)
    assert d_prime(0.0) is None
    assert d_prime(1.0) is None


def test_perfect_scores_have_no_finite_d_prime():
    target, _ = draw(0)
    result = evaluate(predictions(target, target.astype(float)), LabelSet.numbered(7), WHOLE, bootstrap=20)
    assert (result.mAP, result.mAUC, result.d_prime) == (1.0, 1.0, None)
    assert result.mAP_interval == (1.0, 1.0)


def test_scores_have_the_keys_of_the_command():
    target, scores = draw(0)
    result = evaluate(predictions(target, scores), LabelSet.numbered(7), WHOLE, bootstrap=20)
    keys = "mAP mAUC d_prime n_clips n_classes_scored classes_without_positives protocol per_class mAP_interval"
    assert set(result.to_dict()) == set(keys.split())
    assert set(result.to_dict()["per_class"][0]) == {"index", "name", "ap", "auc", "n_positive"}
    assert set(result.summary()) == {"mAP", "mAUC", "d_prime", "n_clips", "n_classes_scored"}
    assert result.protocol == "whole clip"
    assert result.mAP_interval[0] < result.mAP < result.mAP_interval[1]


def one_class_each(seed, clips=50, classes=6):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes - 1, clips)  # the last class has no clip
    scores = rng.random((clips, classes)) + 0.8 * np.eye(classes)[truth]
    scores /= scores.sum(axis=1, keepdims=True)
    found = predictions(np.eye(classes, dtype=bool)[truth], scores)
    return truth, replace(found, task="single-label")


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_recall_of_single_label_networks_are_scikit_learns(seed):
    truth, found = one_class_each(seed)
    result = evaluate(found, LabelSet.numbered(6), WHOLE, bootstrap=0)
    taken_for = found.scores.argmax(axis=1)
    assert result.accuracy == pytest.approx(accuracy_score(truth, taken_for), abs=1e-12)
    recalls = recall_score(truth, taken_for, average=None, labels=range(5))
    assert [row.recall for row in result.per_class[:5]] == pytest.approx(recalls.tolist(), abs=1e-12)
    assert result.per_class[5].recall is None
    assert result.mAP == evaluate(replace(found, task="multi-label"), LabelSet.numbered(6), WHOLE, bootstrap=0).mAP


def test_scores_of_single_label_networks_have_accuracy_beside_the_keys_of_the_others():
    _, found = one_class_each(0)
    result = evaluate(found, LabelSet.numbered(6), WHOLE, bootstrap=20)
    other = evaluate(replace(found, task="multi-label"), LabelSet.numbered(6), WHOLE, bootstrap=20)
    assert result.to_dict().keys() - other.to_dict().keys() == {"accuracy", "accuracy_interval"}
    assert result.to_dict()["per_class"][0].keys() - other.to_dict()["per_class"][0].keys() == {"recall"}
    assert result.summary() == {**other.summary(), "accuracy": result.accuracy}
    assert result.accuracy_interval[0] < result.accuracy < result.accuracy_interval[1]


def test_accuracy_needs_one_class_for_each_clip():
    _, found = one_class_each(0)
    found.target[[4, 7], :2] = True
    with pytest.raises(DataError, match=r"2 of 50 clips have no or several classes, first 'clip4' with [23]: accuracy"):
        evaluate(found, LabelSet.numbered(6), WHOLE, bootstrap=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_loss_is_that_of_torch_also_at_scores_of_0_and_1(seed):
    target, scores = draw(seed, levels=4)
    expected = F.binary_cross_entropy(torch.tensor(scores), torch.tensor(target).double())
    assert mean_loss(predictions(target, scores)) == pytest.approx(float(expected), rel=1e-12)
    choices = np.random.default_rng(seed).dirichlet(np.ones(7), 60)
    classes = np.random.default_rng(seed).integers(7, size=60)
    single = replace(predictions(np.eye(7, dtype=bool)[classes], choices), task="single-label")
    expected = F.nll_loss(torch.tensor(choices).log(), torch.tensor(classes))
    assert mean_loss(single) == pytest.approx(float(expected), rel=1e-12)
