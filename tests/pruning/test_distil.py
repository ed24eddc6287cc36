"""Distillation: nearer on clips that were held out, or nothing."""

import pytest
import torch

from epanns.errors import PruningError
from epanns.models.recipe import describe_step, recipe_problems, steps_of
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.distil import distil

SAMPLES = 80 * 70


def calibration(seed=2):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(20, SAMPLES, generator=generator) - 0.5
    clips = noise.cumsum(dim=1) * 0.01 + noise * torch.logspace(-3, 0, 20)[:, None]
    return list(clips.clamp(-1, 1)[torch.randperm(20, generator=generator)].split((8, 8, 4)))


@pytest.fixture
def networks(build):
    dense = build()
    pruned = apply_plan(dense, plan_pruning(dense, ratio=0.5))
    pruned.conv_block1.requires_grad_(False)
    return pruned.train(), dense


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def distance(model, dense, clips):
    """Return the held-out loss as its definition says."""
    with torch.no_grad():
        ours, wanted = model.eval()(clips), dense(clips)
    errors = [
        float((ours[key] - wanted[key]).square().mean() / (wanted[key] - wanted[key].mean(0)).square().mean())
        for key in ("embedding", "clipwise_logits")
    ]
    return sum(errors) / 2


def test_it_comes_nearer_on_held_out_clips_and_restores_what_is_not_its_own(networks):
    pruned, dense = networks
    statistics = {name: value for name, value in state_of(pruned).items() if "running" in name or "num_batch" in name}
    unpruned = state_of(dense)
    held_out = torch.cat(calibration())[1::5]
    before = distance(pruned, dense, held_out)
    pruned.train()
    done = distil(pruned, dense, calibration, steps=12)
    assert pruned.training
    assert done.before == pytest.approx(before, rel=1e-3)
    assert done.after < 0.97 * done.before
    assert 0 < done.best_step <= done.steps == 12
    assert distance(pruned, dense, held_out) == pytest.approx(done.after, rel=1e-3)
    assert same(statistics, pruned.state_dict())
    assert same(unpruned, dense.state_dict())
    frozen = {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"conv_block1.{name}" for name, _ in pruned.conv_block1.named_parameters()}
    assert all(parameter.grad is None for parameter in pruned.parameters())


def test_the_seed_alone_decides(networks):
    pruned, dense = networks
    start = state_of(pruned)
    ends = []
    for seed in (0, 0, 1):
        pruned.load_state_dict(start)
        torch.manual_seed(len(ends))
        distil(pruned, dense, calibration, steps=3, seed=seed)
        ends.append(state_of(pruned))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_weights_from_before_are_kept_where_no_step_is_better(networks, monkeypatch):
    pruned, dense = networks
    start = state_of(pruned)
    monkeypatch.setattr("epanns.pruning.recovery.distil._RATE", 10.0)
    done = distil(pruned, dense, calibration, steps=3)
    assert (done.best_step, done.after) == (0, done.before)
    assert same(start, pruned.state_dict())


def test_the_recipe_tells_steps_and_errors(networks):
    pruned, dense = networks
    done = distil(pruned, dense, calibration, steps=2, seed=5)
    step = steps_of(pruned.provenance)[-1]
    assert (step["method"], step["clips"], step["steps"], step["seed"]) == ("distil", 20, 2, 5)
    assert step["held_out"] == {"before": done.before, "after": done.after}
    assert "errors" not in step  # those of ls, reader by reader
    assert recipe_problems(pruned.provenance["recipe"]) == []
    assert describe_step(step) == f"recover: {done.best_step} of 2 steps of distil on 20 clips"


def test_what_ends_it_leaves_the_network_as_it_was(networks):
    pruned, dense = networks
    start, seen = state_of(pruned), []

    def interrupt(step, loss):
        seen.append(step)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(pruned, dense, calibration, steps=10, on_step=interrupt)
    assert seen == [1, 2, 3]
    assert same(start, pruned.state_dict())
    assert pruned.training
    assert not pruned.conv_block1.conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("batches", "steps", "match"),
    [
        (lambda: [], 5, "0 calibration clips: give at least two, some hundreds if you can"),
        (lambda: [torch.ones(1, SAMPLES)], 5, "1 calibration clips: give at least two"),
        (lambda: [torch.zeros(2, SAMPLES, dtype=torch.int16)], 5, r"type torch.int16, .*: give floats in \[-1, 1\]"),
        (
            lambda: [torch.ones(3, SAMPLES), torch.ones(3, 99)],
            5,
            r"clips of \d+ and 99 samples: distillation mixes",
        ),
        (lambda: [torch.full((5, SAMPLES), float("nan"))], 5, "calibration clips are not finite; look for bad clips"),
        (calibration, 0, "0 steps of distillation: give at least 1"),
    ],
)
def test_what_cannot_be_used_is_refused(networks, batches, steps, match):
    pruned, dense = networks
    start = state_of(pruned)
    with pytest.raises(PruningError, match=match):
        distil(pruned, dense, batches, steps=steps)
    assert same(start, pruned.state_dict())


def test_weights_that_overflow_are_refused(networks):
    pruned, dense = networks
    with torch.no_grad():
        dense.conv_block2.conv2.weight.fill_(float("inf"))
    start = state_of(pruned)
    with pytest.raises(PruningError, match="outputs are not finite on the calibration clips"):
        distil(pruned, dense, calibration, steps=2)
    assert same(start, pruned.state_dict())


def test_more_clips_than_memory_are_refused(networks, monkeypatch):
    monkeypatch.setattr("epanns.pruning.recovery.distil._MOST_HELD_BYTES", 100_000)
    with pytest.raises(PruningError, match="distillation holds its clips: more than 1 GiB in 16 bit, give fewer"):
        distil(*networks, calibration, steps=1)


def test_other_classes_are_refused(networks):
    pruned, dense = networks
    pruned.reset_classifier(3)
    with pytest.raises(PruningError, match="the pruned network has 3 classes, dense 5: distil before reset_classifier"):
        distil(pruned, dense, calibration, steps=1)
