"""Paired comparisons: slow twins, closed forms, and the level of the p value under the hypothesis of no difference."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from epanns.seeding import numpy_generator
from epanns.statistics.bootstrap import mean_average_precision, mean_average_precision_interval, weighted_mean
from epanns.statistics.paired import Part, compare_rows, holm, two_sided_p


def draw(seed, clips=40, classes=4):
    rng = np.random.default_rng(seed)
    target = rng.random((clips, classes)) < 0.3
    return target, [np.round(rng.random((clips, classes)) + gain * target, 1) for gain in (0.3, 0.5)]


def map_of(target, scores):
    return partial(mean_average_precision, target, scores)


def mean_of(values):
    return partial(weighted_mean, np.asarray(values, float))


def test_the_difference_and_its_interval_equal_a_slow_paired_bootstrap():
    target, scores = draw(0)
    draws = numpy_generator("bootstrap", 3).multinomial(40, np.full(40, 1 / 40), size=100)

    def slow_map(copies, network):
        columns = [c for c in range(4) if target[copies, c].any()]
        return np.mean([average_precision_score(target[copies, c], network[copies, c]) for c in columns])

    copies = [np.repeat(np.arange(40), row) for row in draws]
    slow = np.array([[slow_map(each, network) for network in scores] for each in copies])
    rows, (found,) = compare_rows(
        [Part(40, [{0: map_of(target, network)} for network in scores])], [(0, 1)], resamples=100, seed=3
    )
    expected = [slow_map(np.arange(40), network) for network in scores]
    assert [row.mean for row in rows] == pytest.approx(expected, abs=1e-12)
    assert found.difference == pytest.approx(expected[1] - expected[0], abs=1e-12)
    change = slow[:, 1] - slow[:, 0]
    assert found.interval == pytest.approx(tuple(np.quantile(change, [0.025, 0.975])), abs=1e-12)
    assert found.p == found.p_holm == pytest.approx(min(1, 2 * ((change <= 0).sum() + 1) / 101))


def test_one_network_has_the_interval_of_evaluate_also_by_group():
    target, (scores, _) = draw(1)
    groups = [f"take {number % 9}" for number in range(40)]
    for given_groups in (None, groups):
        (row,), _ = compare_rows([Part(40, [{7: map_of(target, scores)}], given_groups)], [], resamples=50, seed=2)
        assert row.interval == mean_average_precision_interval(
            target, scores, resamples=50, seed=2, groups=given_groups
        )
        assert (row.sd, row.n) == (None, 1)


def test_a_network_compared_with_itself_differs_by_nothing():
    target, (scores, _) = draw(2)
    _, (found,) = compare_rows([Part(40, [{0: map_of(target, scores)}] * 2)], [(0, 1)], resamples=50)
    assert (found.difference, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)


def test_pairing_removes_the_spread_that_networks_share():
    """Both share the difficulty of a clip: the difference has a far narrower interval than either score."""
    difficulty = np.random.default_rng(0).random(200)
    rows, (found,) = compare_rows(
        [Part(200, [{0: mean_of(difficulty)}, {0: mean_of(difficulty + 0.01)}])], [(0, 1)], resamples=500
    )
    assert found.interval == pytest.approx((0.01, 0.01))
    assert rows[0].interval[1] - rows[0].interval[0] > 0.05
    assert found.p == pytest.approx(2 / 501)


def test_seeds_are_drawn_too_and_equal_seeds_together():
    """Clips that are all equal leave the spread of the seeds alone: the exact distribution of the mean of two draws."""
    values = {1: 0.2, 2: 0.6}
    one = {seed: mean_of(np.full(10, value)) for seed, value in values.items()}
    other = {seed: mean_of(np.full(10, value + 0.1)) for seed, value in values.items()}
    third = {seed + 5: measure for seed, measure in other.items()}
    rows, (paired, unpaired) = compare_rows([Part(10, [one, other, third])], [(0, 1), (0, 2)], resamples=400)
    assert rows[0].mean == pytest.approx(0.4)
    assert (rows[0].sd, rows[0].n) == (pytest.approx(0.4 / 2**0.5), 2)
    assert rows[0].interval == pytest.approx((0.2, 0.6))
    assert paired.interval == pytest.approx((0.1, 0.1))
    assert unpaired.interval[0] < -0.2 and unpaired.interval[1] > 0.4


def test_hierarchical_resamples_equal_a_slow_twin():
    rng = np.random.default_rng(4)
    values = {seed: rng.random(12) for seed in (3, 0, 8)}
    _, (found,) = compare_rows(
        [Part(12, [{0: mean_of(np.zeros(12))}, {seed: mean_of(each) for seed, each in values.items()}])],
        [(0, 1)],
        resamples=60,
        seed=5,
    )
    clips = numpy_generator("bootstrap", 5).multinomial(12, np.full(12, 1 / 12), size=60)
    seeds = numpy_generator("bootstrap of seeds", 5, 0, 3, 8).integers(3, size=(3, 60))
    slow = []
    for index in range(60):
        networks = [values[sorted(values)[place]] for place in seeds[:, index]]
        slow.append(np.mean([np.repeat(network, clips[index]).mean() for network in networks]))
    assert found.interval == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-12)


def test_parts_are_averaged_and_each_draws_its_own_clips():
    rng = np.random.default_rng(6)
    folds = [rng.random(size) for size in (30, 50)]
    parts = [Part(len(fold), [{0: mean_of(fold)}]) for fold in folds]
    (row,), _ = compare_rows(parts, [], resamples=400)
    assert row.mean == pytest.approx((folds[0].mean() + folds[1].mean()) / 2)
    assert (row.n, row.sd) == (2, pytest.approx(np.std([fold.mean() for fold in folds], ddof=1)))
    expected = 1.96 * np.sqrt(sum(fold.var() / len(fold) for fold in folds)) / 2
    assert (row.interval[1] - row.interval[0]) / 2 == pytest.approx(expected, rel=0.15)


def test_the_p_value_is_uniform_where_the_networks_do_not_differ():
    """At the level of 10 %, about a tenth of the comparisons of equally good networks are significant."""
    rng, rejected = np.random.default_rng(7), 0
    for trial in range(200):
        values = rng.normal(size=(2, 60))
        parts = [Part(60, [{0: mean_of(each)} for each in values])]
        _, (found,) = compare_rows(parts, [(0, 1)], resamples=199, seed=trial)
        rejected += found.p <= 0.1
    assert 8 <= rejected <= 36


def test_the_p_value_is_the_level_at_which_the_interval_reaches_zero():
    differences = np.concatenate([np.full(5, -1.0), np.full(194, 1.0)])
    assert two_sided_p(differences) == 2 * 6 / 200
    assert two_sided_p(-differences) == 2 * 6 / 200
    assert two_sided_p(np.append(differences, np.nan)) == 2 * 6 / 200
    assert two_sided_p(np.zeros(9)) == 1.0
    assert two_sided_p(np.ones(999)) == 0.002


def test_no_resamples_give_differences_alone():
    (row, _), (found,) = compare_rows(
        [Part(3, [{0: mean_of([1, 2, 3])}, {0: mean_of([2, 3, 4])}])], [(0, 1)], resamples=0
    )
    assert (row.interval, found.difference, found.interval, found.p, found.p_holm) == (None, 1.0, None, None, None)


def test_holm_of_a_known_table():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.6]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected, ordered = set(), sorted(p_values)
        for rank, p in enumerate(ordered):
            if (len(ordered) - rank) * p > level:
                break
            rejected.add(p)
        limit = max(rejected, default=-1.0)
        assert [p <= limit for p in p_values] == [each <= level for each in corrected]
    assert all(one >= other for one, other in zip(corrected, p_values, strict=True))
    assert all((a <= b) or (c >= d) for (a, c), (b, d) in product(zip(p_values, corrected, strict=True), repeat=2))
