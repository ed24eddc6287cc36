"""Gains and losses of classes, counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from epanns.statistics.classes import average_precisions, changes_between, mean_over_networks


def test_average_precisions_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    target, scores = rng.random((30, 3)) < [0.3, 0.1, 0.0], np.round(rng.random((30, 3)), 1)
    found = average_precisions(target, scores)
    expected = [average_precision_score(target[:, index], scores[:, index]) for index in range(2)]
    assert found[:2] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found[2])


def test_classes_are_counted_by_points():
    first = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, np.nan])
    second = first + [0.0, 0.04, 0.05, -0.1, -0.3, 0.25, 0.0]
    found = changes_between(first, second)
    assert (found.higher, found.lower, found.equal, found.undefined) == (3, 2, 1, 1)
    assert found.by == ((0.05, 2, 2), (0.1, 1, 2), (0.2, 1, 1))
    back = changes_between(second, first)
    assert (back.higher, back.lower, back.by) == (2, 3, tuple((points, b, a) for points, a, b in found.by))


def test_the_mean_over_networks_leaves_out_undefined_classes():
    found = mean_over_networks([np.array([0.2, np.nan, np.nan]), np.array([0.4, 0.5, np.nan])])
    assert found[:2] == pytest.approx([0.3, 0.5])
    assert np.isnan(found[2])
