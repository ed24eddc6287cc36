"""Distillation: the loss on held-out clips falls, or the network stays as it was."""

import pytest
import torch

from epanns.errors import PruningError
from epanns.models.provenance import Provenance, recipe_problems
from epanns.models.spec import WITHOUT_FC1
from epanns.models.zoo import ZOO
from epanns.pruning.embedding_channels import shared_channels
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.descent import DescentSettings, RecoveryRun
from epanns.pruning.recovery.distillation import distil
from tests.builders import same_tensors, tensors_of
from tests.families import uneven

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


def distance(model, dense, clips):
    """Return the loss by its definition: the mean relative error of embedding and logits."""
    with torch.no_grad():
        ours, wanted = model.eval()(clips), dense(clips)
    errors = [
        float((ours[key] - wanted[key]).square().mean() / (wanted[key] - wanted[key].mean(0)).square().mean())
        for key in ("embedding", "clipwise_logits")
    ]
    return sum(errors) / 2


def test_distillation_reduces_the_held_out_loss_and_changes_only_trainable_weights(networks):
    pruned, dense = networks
    statistics = {name: value for name, value in tensors_of(pruned).items() if "running" in name or "num_batch" in name}
    unpruned = tensors_of(dense)
    held_out = torch.cat(calibration())[1::5]
    before = distance(pruned, dense, held_out)
    pruned.train()
    done = distil(pruned, dense, calibration, steps=12)
    assert pruned.training
    assert done.before == pytest.approx(before, rel=1e-3)
    assert done.after < 0.98 * done.before
    assert 0 < done.best_step <= done.steps == 12
    assert distance(pruned, dense, held_out) == pytest.approx(done.after, rel=1e-3)
    assert same_tensors(statistics, {name: pruned.state_dict()[name] for name in statistics})
    assert same_tensors(unpruned, dense)
    frozen = {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"conv_block1.{name}" for name, _ in pruned.conv_block1.named_parameters()}
    assert all(parameter.grad is None for parameter in pruned.parameters())


def test_distillation_is_a_function_of_its_seed(networks):
    pruned, dense = networks
    start = tensors_of(pruned)
    ends = []
    for seed in (0, 0, 1):
        pruned.load_state_dict(start)
        torch.manual_seed(len(ends))
        distil(pruned, dense, calibration, steps=3, seed=seed)
        ends.append(tensors_of(pruned))
    assert same_tensors(ends[0], ends[1])
    assert not same_tensors(ends[0], ends[2])


def test_the_initial_weights_are_kept_when_no_step_reduces_the_loss(networks, monkeypatch):
    pruned, dense = networks
    start = tensors_of(pruned)
    monkeypatch.setattr(DescentSettings, "rate_at", lambda settings, step: 10.0)
    done = distil(pruned, dense, calibration, steps=3)
    assert (done.best_step, done.after) == (0, done.before)
    assert same_tensors(start, pruned)


def test_the_recipe_records_steps_and_held_out_losses(networks):
    pruned, dense = networks
    done = distil(pruned, dense, calibration, steps=2, seed=5)
    step = pruned.provenance.recipe[-1]
    settings = step.settings
    assert (settings["method"], settings["clips"], settings["steps"], settings["seed"]) == ("distil", 20, 2, 5)
    assert settings["held_out"] == {"before": done.before, "after": done.after}
    assert "errors" not in settings  # errors per reader belong to ls
    assert recipe_problems(pruned.provenance.to_dict()["recipe"]) == []
    assert step.describe() == f"recover: {done.best_step} of 2 steps of distil on 20 clips"


def test_an_interrupted_distillation_restores_the_network(networks):
    pruned, dense = networks
    start, seen = tensors_of(pruned), []

    def interrupt(step, total, loss):
        seen.append(step)
        assert total == 10
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(pruned, dense, calibration, steps=10, run=RecoveryRun(on_step=interrupt))
    assert seen == [1, 2, 3]
    assert same_tensors(start, pruned)
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
            r"clips of \d+ and 99 samples: they are mixed",
        ),
        (lambda: [torch.full((5, SAMPLES), float("nan"))], 5, "calibration clips are not finite; look for bad clips"),
        (calibration, 0, "0 steps: give at least 1"),
    ],
)
def test_invalid_clips_and_steps_are_refused(networks, batches, steps, match):
    pruned, dense = networks
    start = tensors_of(pruned)
    with pytest.raises(PruningError, match=match):
        distil(pruned, dense, batches, steps=steps)
    assert same_tensors(start, pruned)


def test_an_unpruned_network_with_infinite_outputs_is_refused(networks):
    pruned, dense = networks
    with torch.no_grad():
        dense.conv_block2.conv2.weight.fill_(float("inf"))
    start = tensors_of(pruned)
    with pytest.raises(PruningError, match="outputs are not finite on the calibration clips"):
        distil(pruned, dense, calibration, steps=2)
    assert same_tensors(start, pruned)


def test_more_clips_than_fit_into_memory_are_refused(networks, monkeypatch):
    monkeypatch.setattr("epanns.pruning.recovery.mixed_crops.MOST_HELD_BYTES", 100_000)
    with pytest.raises(PruningError, match="the calibration clips take more than 1 GiB in 16 bit: give fewer"):
        distil(*networks, calibration, steps=1)


def test_networks_with_different_classes_are_refused(networks):
    pruned, dense = networks
    pruned.reset_classifier(3)
    with pytest.raises(PruningError, match="the pruned network has 3 classes, dense 5: distil before reset_classifier"):
        distil(pruned, dense, calibration, steps=1)


def one_of_each_family():
    found = sorted({spec.family: name for name, spec in ZOO.items()}.values())
    quick = {"Cnn6", "Cnn10", "Cnn14", "YAMNet", "YAMNet_linear", "YAMNet_projection", "LEAN"}
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in found]


@pytest.mark.parametrize("name", one_of_each_family())
def test_every_family_compares_the_kept_channels_of_the_embedding(name):
    """An embedding that does not shrink is compared whole."""
    dense = uneven(name)
    last = dense.layer_names[-1]
    plan = plan_pruning(dense, ratios={last: 0.4, dense.layer_names[0]: 0.34})
    pruned, clips = apply_plan(dense, plan), torch.randn(4, dense.spec.front_end.sample_rate // 2) / 9
    done = distil(pruned, dense, lambda: [clips], steps=1)
    assert done.embedding_channels == pruned.spec.embedding_size
    shrinks = dense.spec.family in WITHOUT_FC1
    assert (done.embedding_channels < dense.spec.embedding_size) == shrinks
    again = apply_plan(pruned, plan_pruning(pruned, ratios={last: 0.4}))
    kept = list(again.provenance.plan.kept_channels[last])
    for student, teacher, theirs in (
        (pruned, dense, list(plan.kept_channels[last])),
        (again, dense, kept),
        (again, pruned, [plan.kept_channels[last].index(channel) for channel in kept]),
    ):
        found = shared_channels(student, teacher)
        if not shrinks:
            assert found == (dense.spec.embedding_size, slice(None), slice(None))
            continue
        assert found.teacher == theirs and found.channels == len(theirs) == student.spec.embedding_size
        assert torch.arange(found.channels)[found.student].tolist() == list(range(found.channels))


@pytest.fixture
def cut_yamnet():
    """Return a pruned YAMNet whose removed channels had no weight in the classifier, the unpruned one and the plan."""
    dense = uneven("YAMNet", least=6).eval()
    last = dense.layer_names[-1]
    plan = plan_pruning(dense, ratios={last: 0.5})
    dropped = sorted({*range(dense.spec.embedding_size)} - {*plan.kept_channels[last]})
    with torch.no_grad():
        dense.fc_audioset.weight[:, dropped] = 0
    return apply_plan(dense, plan), dense, plan


def test_a_network_without_its_unused_channels_has_loss_0(cut_yamnet):
    """The loss is 0 only where the kept channels of the embedding are compared."""
    pruned, dense, plan = cut_yamnet
    clips = [torch.randn(6, 8_000) / 9]
    assert distil(pruned, dense, lambda: clips, steps=1).before == pytest.approx(0, abs=1e-9)
    pruned.provenance = Provenance()
    assert distil(pruned, dense, lambda: clips, steps=1, plan=plan).before == pytest.approx(0, abs=1e-9)
    done = distil(pruned, dense, lambda: clips, steps=1)  # without plan the kept channels are unknown
    assert (done.embedding_channels, done.before) == (0, pytest.approx(0, abs=1e-9))


def test_embeddings_without_a_common_plan_are_not_compared(cut_yamnet):
    pruned, dense, plan = cut_yamnet
    last, size = dense.layer_names[-1], pruned.spec.embedding_size
    others = sorted({*range(dense.spec.embedding_size)} - {*plan.kept_channels[last]})
    disjoint = apply_plan(dense, type(plan)(dense.spec, {last: others}, "l1", {last: 0.5}, 0))
    assert shared_channels(pruned, disjoint) == (0, [], [])
    assert shared_channels(pruned, pruned) == (size, slice(None), slice(None))
    pruned.provenance = Provenance()
    assert shared_channels(pruned, dense) == (0, [], [])
