import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epanns.data.packs.any_pack import SparseTargets

tables = st.tuples(st.integers(1, 12), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape))


@given(tables)
def test_a_dense_table_survives_the_round_trip(table):
    sparse = SparseTargets.from_dense(table)
    assert len(sparse) == len(table)
    np.testing.assert_array_equal(sparse.dense(), table)
    np.testing.assert_array_equal(sparse.dense([len(table) - 1, 0]), table[[-1, 0]])
    np.testing.assert_array_equal(sparse.counts(), table.sum(axis=0))
    np.testing.assert_array_equal(sparse.of(0), np.flatnonzero(table[0]))


@given(tables, st.data())
def test_taking_rows_is_indexing(table, data):
    rows = data.draw(st.lists(st.integers(0, len(table) - 1), max_size=20))
    taken = SparseTargets.from_dense(table).take(rows)
    np.testing.assert_array_equal(taken.dense(), table[rows])
    assert taken.equals(SparseTargets.from_dense(table[rows]))


@given(tables, tables)
def test_equals_compares_the_content(one, other):
    ours, theirs = map(SparseTargets.from_dense, (one, other))
    assert ours.equals(theirs) == np.array_equal(one, other)


@given(tables)
def test_clips_of_each_class_are_its_true_rows(table):
    for clips, column in zip(SparseTargets.from_dense(table).clips_by_class(), table.T, strict=True):
        np.testing.assert_array_equal(clips, np.flatnonzero(column))


@given(tables, st.integers(0, 12))
def test_joining_is_stacking(table, cut):
    parts = [SparseTargets.from_dense(part) for part in (table[:cut], table[cut:])]
    np.testing.assert_array_equal(SparseTargets.concatenate(parts).dense(), table)


@given(tables, st.randoms(use_true_random=False))
def test_relabelling_moves_columns(table, random):
    places = random.sample(range(table.shape[1] + 3), table.shape[1])
    moved = np.zeros((len(table), table.shape[1] + 3), bool)
    moved[:, places] = table
    relabelled = SparseTargets.from_dense(table).relabelled(places, table.shape[1] + 3)
    np.testing.assert_array_equal(relabelled.dense(), moved)
    assert all(np.all(np.diff(relabelled.classes[first:last]) > 0) for first, last in pairs(relabelled.offsets))


def pairs(offsets):
    return zip(offsets[:-1], offsets[1:], strict=True)


def test_sparse_targets_are_small():
    table = np.zeros((1000, 527), bool)
    table[:, :2] = True
    sparse = SparseTargets.from_dense(table)
    assert sparse.offsets.nbytes + sparse.classes.nbytes == pytest.approx(16 * 1000, abs=8)
