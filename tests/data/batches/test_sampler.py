from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.data.batches.sampler import SAMPLERS, Draw, StepBatches, make_stream, places_of_step, sequential_batches
from epanns.data.packs.any_pack import SparseTargets
from epanns.errors import ConfigError, PackError

# Class 0 has one clip, class 1 three, class 2 none, class 3 five; clip 8 has two labels, clip 9 none.
TARGETS = np.zeros((10, 4), bool)
TARGETS[0, 0] = TARGETS[1:4, 1] = TARGETS[4:9, 3] = TARGETS[8, 1] = True

samplers = pytest.mark.parametrize("sampler", SAMPLERS)


def stream_of(sampler, *, targets=TARGETS, seed=3):
    return make_stream(sampler, SparseTargets.from_dense(targets), seed)


def drawn(sampler, *, batch_size=5, first_step=0, last_step=12, seed=3, targets=TARGETS, **share):
    stream, places = stream_of(sampler, targets=targets, seed=seed), places_of_step(batch_size, **share)
    return list(StepBatches(stream, batch_size=batch_size, first_step=first_step, last_step=last_step, places=places))


def clips_of(batches):
    return [draw.clip for batch in batches for draw in batch]


@given(st.integers(0, 50), st.integers(1, 20), st.integers(1, 5))
def test_sequential_batches_hold_every_clip_once_in_order_over_all_ranks(n_clips, batch_size, world_size):
    shares = [sequential_batches(n_clips, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [clip for share in shares for batch in share for clip in batch] == list(range(n_clips))
    assert all(len(batch) == batch_size for share in shares for batch in share[:-1])
    sizes = [sum(len(batch) for batch in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@samplers
@settings(max_examples=30)
@given(first_step=st.integers(0, 40))
def test_a_resumed_run_gets_the_batches_of_an_uninterrupted_run(sampler, first_step):
    assert drawn(sampler, first_step=first_step, last_step=43) == drawn(sampler, last_step=43)[first_step:]


@samplers
@settings(max_examples=30)
@given(positions=st.lists(st.integers(0, 10_000), max_size=30))
def test_positions_can_be_read_in_any_order(sampler, positions):
    one, other = stream_of(sampler), stream_of(sampler)
    before = {position: one[position] for position in sorted(positions)}
    assert [other[position] for position in positions] == [before[position] for position in positions]


@samplers
@settings(max_examples=30)
@given(world_size=st.integers(1, 4), pairs=st.integers(1, 5), first_step=st.integers(0, 5))
def test_the_shares_of_all_ranks_are_the_batches_of_one_process(sampler, world_size, pairs, first_step):
    steps = {"batch_size": 2 * pairs * world_size, "first_step": first_step, "last_step": first_step + 3}
    alone = drawn(sampler, **steps)
    shares = [drawn(sampler, **steps, together=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [[draw for share in step for draw in share] for step in zip(*shares, strict=True)] == alone
    assert all(len(batch) == 2 * pairs and batch[0].number % 2 == 0 for share in shares for batch in share)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
def test_the_parts_of_all_ranks_are_the_parts_of_one_process(world_size, parts, groups, together):
    size = world_size * parts * groups * together
    alone = places_of_step(size)
    ranks = [
        places_of_step(size, together=together, parts=parts, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    share, assembled = groups * together, []
    for part in range(parts):
        assembled += [place for places in ranks for place in places[part * share : (part + 1) * share]]
    assert assembled == alone == list(range(size))
    assert all(places[::together] == [place // together * together for place in places[::together]] for places in ranks)


@samplers
def test_batches_depend_on_the_seed_and_number_their_draws(sampler):
    assert drawn(sampler) == drawn(sampler)
    assert clips_of(drawn(sampler)) != clips_of(drawn(sampler, seed=4))
    assert [draw.number for batch in drawn(sampler, first_step=2) for draw in batch] == list(range(10, 60))


@samplers
def test_batches_can_be_iterated_twice_and_have_a_length(sampler):
    batches = StepBatches(stream_of(sampler), batch_size=4, first_step=2, last_step=7)
    assert list(batches) == list(batches)
    assert len(batches) == 5


@pytest.mark.parametrize(
    ("sampler", "clips"),
    [
        ("balanced", [2, 6, 0, 5, 8, 0, 5, 3, 0, 8, 1, 3, 6, 0, 8, 7, 0, 0, 4, 2, 8, 3, 0, 0]),
        ("shuffled", [4, 9, 8, 2, 1, 0, 5, 3, 7, 6, 6, 2, 1, 9, 0, 4, 5, 3, 8, 7, 4, 3, 8, 6]),
        ("weighted", [8, 2, 1, 4, 4, 1, 6, 2, 2, 8, 8, 8, 8, 6, 8, 8, 2, 8, 5, 6, 7, 6, 8, 5]),
    ],
)
def test_draws_equal_the_recorded_draws(sampler, clips):
    assert clips_of(drawn(sampler, batch_size=8, first_step=5, last_step=8)) == clips


def test_shuffled_passes_hold_every_clip_once():
    stream = clips_of(drawn("shuffled"))
    passes = [stream[first : first + 10] for first in range(0, 60, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 6


def test_each_balanced_turn_draws_one_clip_of_each_class_with_clips():
    stream = clips_of(drawn("balanced"))
    for first in range(0, 60, 3):
        turn = stream[first : first + 3]
        assert any(sorted(classes) == [0, 1, 3] for classes in choices(turn))


def choices(turn):
    """Every way to assign the clips of a turn to one of their classes each."""
    if not turn:
        return [[]]
    return [[int(label), *rest] for label in np.flatnonzero(TARGETS[turn[0]]) for rest in choices(turn[1:])]


def test_all_clips_of_a_class_are_drawn_before_one_is_repeated():
    targets = np.eye(2, dtype=bool)[[0, 0, 0, 1, 1, 1, 1]]
    stream = clips_of(drawn("balanced", targets=targets, batch_size=24, last_step=1))
    ours, theirs = ([clip for clip in stream if targets[clip, label]] for label in (0, 1))
    assert all(sorted(ours[first : first + 3]) == [0, 1, 2] for first in range(0, 12, 3))
    assert all(sorted(theirs[first : first + 4]) == [3, 4, 5, 6] for first in range(0, 12, 4))


def test_balanced_sampling_draws_rare_classes_as_often_as_common_ones():
    targets = np.eye(2, dtype=bool)[[0] * 99 + [1]]
    counts = Counter(clips_of(drawn("balanced", targets=targets, batch_size=50, last_step=4)))
    assert counts[99] == 100
    assert max(counts[clip] for clip in range(99)) == 2


def test_weighted_draws_follow_the_weights():
    targets = np.zeros((300, 4), bool)
    targets[:200, 0] = targets[150:290, 1] = targets[290, 2] = targets[10, 2] = True  # class 3 and clips 291- are bare
    per_class = 1 / (100 + targets.sum(axis=0))
    weights = (targets * per_class).sum(axis=1)
    draws = 400_000
    found = np.bincount(clips_of(drawn("weighted", targets=targets, batch_size=draws, last_step=1)), minlength=300)
    expected = draws * weights / weights.sum()
    spread = np.sqrt(np.maximum(expected, 1))
    assert np.abs(found - expected).max() < 5 * spread.max()
    assert ((found - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 0].mean() == pytest.approx(1, abs=0.3)
    assert found[291:].sum() == 0


@pytest.mark.parametrize("sampler", ["balanced", "weighted"])
def test_balanced_and_weighted_sampling_never_draw_clips_without_labels(sampler):
    assert 9 not in clips_of(drawn(sampler, last_step=200))
    with pytest.raises(PackError, match=f"no clip of the training pack has a label, which {sampler} sampling needs"):
        drawn(sampler, targets=np.zeros((3, 2), bool))


def test_an_empty_pack_is_refused():
    with pytest.raises(PackError, match="the training pack holds no clips; pack a split that has some"):
        drawn("shuffled", targets=np.zeros((0, 2), bool))


def test_an_unknown_sampler_is_refused():
    with pytest.raises(
        ConfigError, match=r"sampler='balance' \(did you mean 'balanced'\?\): must be balanced, shuffled or weighted"
    ):
        drawn("balance")


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"batch_size": 8, "world_size": 3}, "a batch of 8 clips cannot be shared out to 3 processes: take a multiple"),
        ({"batch_size": 6, "world_size": 2, "together": 2}, "to 2 processes in groups of 2: take a multiple of 4"),
        ({"batch_size": 4, "world_size": 2, "parts": 3}, "to 2 processes in 3 parts: take a multiple of 6"),
        ({"rank": 2, "world_size": 2}, "rank=2 of world_size=2: must be in 0..1"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(share, message):
    with pytest.raises(ConfigError, match=message):
        drawn("shuffled", **share)


def test_a_draw_is_a_clip_and_a_number():
    assert drawn("shuffled", batch_size=2, first_step=3, last_step=4)[0][1] == Draw(stream_of("shuffled")[7], 7)
