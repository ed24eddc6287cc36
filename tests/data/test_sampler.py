from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.data.sampler import StepBatches, sequential_batches
from epanns.data.targets import SparseTargets
from epanns.errors import ConfigError, PackError

# Class 0 has one clip, class 1 three, class 2 none, class 3 five; clip 8 has two labels, clip 9 none.
TARGETS = np.zeros((10, 4), bool)
TARGETS[0, 0] = TARGETS[1:4, 1] = TARGETS[4:9, 3] = TARGETS[8, 1] = True


def drawn(sampler, *, batch_size=5, seed=3, first_step=0, last_step=12, targets=TARGETS):
    return list(
        StepBatches(
            SparseTargets.from_dense(targets),
            sampler=sampler,
            batch_size=batch_size,
            seed=seed,
            first_step=first_step,
            last_step=last_step,
        )
    )


def flat(batches):
    return [index for batch in batches for index in batch]


@given(st.integers(0, 50), st.integers(1, 20))
def test_sequential_batches_hold_every_clip_once_in_order(n_clips, batch_size):
    batches = sequential_batches(n_clips, batch_size)
    assert flat(batches) == list(range(n_clips))
    assert all(len(batch) == batch_size for batch in batches[:-1])


@pytest.mark.parametrize("sampler", ["balanced", "shuffled"])
@settings(max_examples=30, deadline=None)
@given(first_step=st.integers(0, 40))
def test_a_run_that_goes_on_sees_what_it_would_have_seen(sampler, first_step):
    assert drawn(sampler, first_step=first_step, last_step=43) == drawn(sampler, last_step=43)[first_step:]


@pytest.mark.parametrize("sampler", ["balanced", "shuffled"])
def test_batches_depend_on_the_seed(sampler):
    assert drawn(sampler) == drawn(sampler)
    assert drawn(sampler) != drawn(sampler, seed=4)


@pytest.mark.parametrize("sampler", ["balanced", "shuffled"])
def test_batches_may_be_drawn_again_and_have_a_length(sampler):
    batches = StepBatches(
        SparseTargets.from_dense(TARGETS), sampler=sampler, batch_size=4, seed=0, first_step=2, last_step=7
    )
    assert list(batches) == list(batches)
    assert len(batches) == 5


def test_shuffled_passes_hold_every_clip_once():
    stream = flat(drawn("shuffled"))
    passes = [stream[first : first + 10] for first in range(0, 60, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 6


def test_each_balanced_turn_draws_one_clip_of_each_class_that_has_any():
    stream = flat(drawn("balanced"))
    for first in range(0, 60, 3):
        turn = [index for index in stream[first : first + 3]]
        assert any(sorted(classes) == [0, 1, 3] for classes in choices(turn))


def choices(turn):
    """Every way to assign the clips of a turn to one of their classes each."""
    if not turn:
        return [[]]
    return [[int(label), *rest] for label in np.flatnonzero(TARGETS[turn[0]]) for rest in choices(turn[1:])]


def test_a_class_gives_all_its_clips_before_any_comes_again():
    targets = np.eye(2, dtype=bool)[[0, 0, 0, 1, 1, 1, 1]]
    stream = flat(drawn("balanced", targets=targets, batch_size=24, last_step=1))
    ours, theirs = ([index for index in stream if targets[index, label]] for label in (0, 1))
    assert all(sorted(ours[first : first + 3]) == [0, 1, 2] for first in range(0, 12, 3))
    assert all(sorted(theirs[first : first + 4]) == [3, 4, 5, 6] for first in range(0, 12, 4))


def test_balanced_sampling_draws_rare_classes_as_often_as_common_ones():
    targets = np.eye(2, dtype=bool)[[0] * 99 + [1]]
    counts = Counter(flat(drawn("balanced", targets=targets, batch_size=50, last_step=4)))
    assert counts[99] == 100
    assert max(counts[index] for index in range(99)) == 2


def test_clips_without_labels_are_never_drawn_in_balance():
    assert 9 not in flat(drawn("balanced"))


def test_balanced_sampling_without_any_label_is_refused():
    with pytest.raises(PackError, match="no clip of the training pack has a label, which balanced sampling needs"):
        drawn("balanced", targets=np.zeros((3, 2), bool))


def test_an_empty_pack_is_refused():
    with pytest.raises(PackError, match="the training pack holds no clips; pack a split that has some"):
        drawn("shuffled", targets=np.zeros((0, 2), bool))


def test_an_unknown_sampler_is_refused():
    with pytest.raises(
        ConfigError, match=r"sampler='balance' \(did you mean 'balanced'\?\): must be balanced or shuffled"
    ):
        drawn("balance")


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="batch_size=0: must be at least 1"):
        drawn("shuffled", batch_size=0)
