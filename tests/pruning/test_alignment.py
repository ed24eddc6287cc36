"""Alignment: every layer nearer to the unpruned network's on held-out clips; resumed with the same bytes."""

import copy
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from epanns.errors import CheckpointError, Interrupted, OutputError, PruningError
from epanns.models.pruning_plan import PruningPlan
from epanns.models.zoo import ZOO
from epanns.pruning.calibration_clips import CalibrationClips
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.alignment import LayerDistance, align
from epanns.pruning.recovery.descent import DescentSettings, RecoveryRun
from epanns.pruning.recovery.mixed_crops import MixedCrops
from epanns.pruning.surgery import channel_groups
from epanns.state_files import saved_states
from tests.families import narrow, noise

SAMPLES = 12_000


def calibration(count=20, seed=2, samples=SAMPLES):
    generator = torch.Generator().manual_seed(seed)
    clips = (torch.rand(count, samples, generator=generator) - 0.5) * torch.logspace(-2, 0, count)[:, None]
    return list(clips[torch.randperm(count, generator=generator)].split(8))


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def networks():
    dense = copy.deepcopy(narrow("Cnn6"))  # tests change it, and it is cached
    plan = plan_pruning(dense, ratio=0.4)
    pruned = apply_plan(dense, plan)
    pruned.conv_block1.requires_grad_(False)
    return pruned.train(), dense, plan


def test_every_layer_comes_nearer_and_what_is_not_its_own_is_restored(networks):
    pruned, dense, plan = networks
    statistics = {name: value for name, value in state_of(pruned).items() if "running" in name or "num_batch" in name}
    unpruned = state_of(dense)
    done = align(pruned, dense, calibration(), steps=40, plan=plan)
    assert done.after < 0.8 * done.before
    assert 0 < done.best_step <= done.steps <= 40
    assert done.curve[0] == (0, done.before) and min(loss for _, loss in done.curve) == done.after
    assert pruned.training
    assert same(statistics, {name: pruned.state_dict()[name] for name in statistics})
    assert same(unpruned, dense.state_dict())
    frozen = {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"conv_block1.{name}" for name, _ in pruned.conv_block1.named_parameters()}
    assert all(parameter.grad is None for parameter in pruned.parameters())
    operation = pruned.provenance.recipe[-1]
    assert operation.settings["held_out"] == {"before": done.before, "after": done.after}
    assert operation.describe() == f"recover: {done.best_step} of 40 steps of align on 20 clips"


def divergence(wanted, found, task):
    """Return the mean Kullback-Leibler divergence in nats, without `found` from the mean of the probabilities."""
    wanted = wanted.double()
    if task == "single-label":
        one = wanted.softmax(dim=1)
        other = one.mean(dim=0) if found is None else found.double().softmax(dim=1)
        return float((one * (one / other).log()).sum(dim=1).mean())
    one = wanted.sigmoid()
    logits = one.mean(dim=0).logit().expand_as(one) if found is None else found.double()
    cross = F.binary_cross_entropy_with_logits(logits, one, reduction="none")
    own = F.binary_cross_entropy_with_logits(wanted, one, reduction="none")
    return float((cross - own).sum(dim=1).mean())


@pytest.mark.parametrize(("layers", "task"), [(None, "multi-label"), (["conv_block3"], "single-label")])
def test_the_loss_is_that_of_its_definition(networks, layers, task):
    """A slow twin: whole forward passes, and the kept channels of each layer's input by its reader."""
    _, dense, _ = networks
    dense.set_task(task)
    plan = plan_pruning(dense, ratio=0.4, layers=layers)
    pruned = apply_plan(dense, plan).eval()
    distance = LayerDistance(pruned, dense, plan)
    held_out, clips = torch.cat(calibration(6, seed=5)), torch.cat(calibration(4, seed=6))
    distance.scale_to(iter(held_out.split(2)))
    readers = {reader.name: group.layer for group in channel_groups(dense).values() for reader in group.readers}

    def inputs_of(model, batch):
        found = {}
        names = [*readers, "last map"]
        hooks = [
            model.get_submodule(name).register_forward_pre_hook(
                lambda module, given, name=name: found.update({name: given[0].detach().clone()})
            )
            for name in readers
        ]
        with torch.no_grad():
            found["last map"] = model.through_stages(model.inputs_of(batch))[0]
            logits = model(batch)["clipwise_logits"]
        for hook in hooks:
            hook.remove()
        return {name: found[name] for name in names if name in found}, logits

    scales, scale_logits = inputs_of(dense, held_out)
    (ours, our_logits), (theirs, their_logits) = inputs_of(pruned, clips), inputs_of(dense, clips)
    errors = []
    for name in [*distance.layers, "last map"]:
        layer = readers.get(name, dense.layer_names[-1])
        if name == "fc_audioset":  # the embedding keeps its channels
            with torch.no_grad():
                ours[name], theirs[name] = pruned(clips)["embedding"], dense(clips)["embedding"]
                scales[name] = dense(held_out)["embedding"]
            kept = list(range(theirs[name].shape[1]))
        else:
            kept = list(plan.kept_channels.get(layer, range(dense.spec.widths[layer])))
        target, scale = theirs[name][:, kept], scales[name][:, kept]
        axes = [axis for axis in range(scale.dim()) if axis != 1]
        variance = float((scale - scale.mean(dim=axes, keepdim=True)).square().mean())
        errors.append(float((ours[name] - target).square().mean()) / variance)
    of_scores = divergence(their_logits, our_logits, task) / divergence(scale_logits, None, task)
    with torch.no_grad():
        found = float(distance.loss(clips))
    assert found == pytest.approx(np.mean(errors) + of_scores, rel=1e-4)


def test_an_unpruned_network_and_one_that_lost_unread_channels_are_at_0_and_stay(networks):
    _, dense, plan = networks
    nothing = PruningPlan(dense.spec, {}, "l1", {}, 0)
    for layer, kept in plan.kept_channels.items():
        for reader in channel_groups(dense)[layer].readers:
            dropped = [reader.offset + channel for channel in range(dense.spec.widths[layer]) if channel not in kept]
            with torch.no_grad():
                dense.get_submodule(reader.name).weight[:, dropped] = 0
    for same_plan in (nothing, plan):
        pruned = apply_plan(dense, same_plan)
        start = state_of(pruned)
        done = align(pruned, dense, calibration(), steps=3, plan=same_plan)
        assert done.before == pytest.approx(0, abs=1e-8)
        assert done.after <= done.before
        assert done.best_step or same(start, pruned.state_dict())


def test_the_seed_alone_decides_and_layers_before_the_first_cut_stay(networks):
    _, dense, _ = networks
    plan = plan_pruning(dense, ratio=0.4, layers=["conv_block3"])
    ends = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(ends))
        pruned = apply_plan(dense, plan)
        assert align(pruned, dense, calibration(), steps=12, plan=plan, seed=seed).best_step
        ends.append(state_of(pruned))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])
    before = {name: value for name, value in dense.state_dict().items() if name.startswith(("bn0", "conv_block1."))}
    assert len(before) > 8 and same(before, {name: ends[0][name] for name in before})


def test_the_weights_from_before_are_kept_where_no_step_is_better(networks, monkeypatch):
    pruned, dense, plan = networks
    start = state_of(pruned)
    monkeypatch.setattr(DescentSettings, "rate_at", lambda settings, step: 1e3)
    done = align(pruned, dense, calibration(), steps=40, plan=plan)
    assert (done.best_step, done.after) == (0, done.before)
    assert done.steps < 40  # six evaluations without improvement, or a loss that is not finite
    assert same(start, pruned.state_dict())


def of_each_family():
    found = sorted({spec.family: name for name, spec in ZOO.items()}.values())
    quick = {"Cnn14_DecisionLevelAtt", "YAMNet", "LEAN", "LeeNet11", "ResNet22", "MobileNetV2"}
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in found]


@pytest.mark.parametrize("name", of_each_family())
def test_every_family_is_aligned(name):
    dense = narrow(name)
    plan = plan_pruning(dense, ratio=0.4)
    pruned = apply_plan(dense, plan)
    distance = LayerDistance(pruned, dense, plan)
    assert set(distance.layers) >= {
        reader.name for group in channel_groups(dense).values() for reader in group.readers if group.layer
    }
    clips = calibration(8, samples=max(8_000, dense.minimum_samples))
    done = align(pruned, dense, clips, steps=2, plan=plan)
    assert np.isfinite([done.before, done.after]).all() and done.after <= done.before
    assert all(bool(value.isfinite().all()) for value in pruned.forward_inputs(noise(pruned)).values())


@pytest.mark.parametrize(
    ("clips", "steps", "match"),
    [
        ([], 5, "0 calibration clips: give at least two, some hundreds if you can"),
        ([torch.ones(1, SAMPLES)], 5, "1 calibration clips: give at least two"),
        ([torch.ones(3, SAMPLES), torch.ones(3, 99)], 5, "clips of 12000 and 99 samples: they are mixed"),
        ([torch.full((5, SAMPLES), float("nan"))], 5, "calibration clips are not finite; look for bad clips"),
        (calibration(), 0, "0 steps: give at least 1"),
    ],
)
def test_what_cannot_be_used_is_refused(networks, clips, steps, match):
    pruned, dense, plan = networks
    start = state_of(pruned)
    with pytest.raises(PruningError, match=match):
        align(pruned, dense, clips, steps=steps, plan=plan)
    assert same(start, pruned.state_dict())
    pruned.reset_classifier(3)
    with pytest.raises(PruningError, match="the pruned network has 3 classes, dense 5: align before reset_classifier"):
        align(pruned, dense, calibration(), steps=1, plan=plan)


def test_stopped_steps_resume_with_the_same_bytes_in_a_folder_of_their_own(networks, tmp_path):
    _, dense, plan = networks
    whole, stopped = apply_plan(dense, plan), apply_plan(dense, plan)
    expected = align(whole, dense, calibration(), steps=30, plan=plan)
    folder, start, lines = tmp_path / "states", state_of(stopped), []

    def stop(step, total, loss):
        if step in (13, 21):
            os.kill(os.getpid(), signal.SIGTERM)

    run = RecoveryRun(folder, {"clips": "abc"}, on_step=stop, log=lines.append)
    for step in (13, 21):
        with pytest.raises(Interrupted, match=rf"stopped by signal 15 at step {step} of 30 of the recovery; the same"):
            align(stopped, dense, calibration(), steps=30, plan=plan, run=run)
        assert same(start, stopped.state_dict())
    with pytest.raises(OutputError, match=r"holds a recovery with clips='abc', not 'other': repeat the options"):
        align(stopped, dense, calibration(), steps=30, plan=plan, run=RecoveryRun(folder, {"clips": "other"}))
    with pytest.raises(OutputError, match=r"settings.steps=30, not 31"):
        align(stopped, dense, calibration(), steps=31, plan=plan, run=RecoveryRun(folder, {"clips": "abc"}))
    newest = saved_states(folder)[0]
    newest.write_bytes(newest.read_bytes()[:-1])  # damaged: the state before it is taken
    done = align(stopped, dense, calibration(), steps=30, plan=plan, run=RecoveryRun(folder, {"clips": "abc"}))
    assert done == expected
    assert same(whole.state_dict(), stopped.state_dict())
    assert not folder.exists()
    assert "resume the recovery at step 13 of 30" in lines


def test_a_folder_without_a_usable_state_is_refused(networks, tmp_path):
    pruned, dense, plan = networks

    def stop(step, total, loss):
        os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path / "states"
    with pytest.raises(Interrupted):
        align(pruned, dense, calibration(), steps=3, plan=plan, run=RecoveryRun(folder, on_step=stop))
    for state in saved_states(folder):
        state.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"state of a recovery cannot be resumed .*: no state .* delete .*states"):
        align(pruned, dense, calibration(), steps=3, plan=plan, run=RecoveryRun(folder))


def test_inputs_are_the_louder_of_two_crops_and_held_out_clips_are_as_they_are(networks):
    pruned, _, _ = networks
    clips = torch.zeros(10, 40_000)
    clips[:, :20_000] = torch.rand(10, 20_000) - 0.5  # the second half is silent, as in many packs
    crops = MixedCrops(CalibrationClips.of([clips]), pruned, crop_seconds=1.0)
    rate = pruned.spec.front_end.sample_rate
    held_out = torch.cat(list(crops.held_out(3)))
    assert held_out.shape == (2, rate)
    for crop, clip in zip(held_out, clips[1::5], strict=True):
        windows = clip.unfold(0, rate, 1)
        assert float((windows - crop).abs().amax(dim=1).min()) < 1e-4
    inputs = crops.inputs(0, 1, 200)
    assert inputs.shape == (200, rate)
    silent = float((inputs.abs().amax(dim=1) == 0).float().mean())
    assert silent < 0.2  # of single crops 30 % are silent
    assert torch.equal(inputs[:7], crops.inputs(0, 1, 7))
    assert not torch.equal(inputs[:7], crops.inputs(0, 2, 7))


@pytest.mark.slow
def test_the_memory_of_a_step_does_not_grow_with_the_batch():
    """48 inputs are computed 16 at a time: the peak of a full-width Cnn14 stays below 4 GB."""
    code = """
        import resource, torch
        from epanns.models.zoo import build_model
        from epanns.pruning.prune import apply_plan, plan_pruning
        from epanns.pruning.recovery.alignment import align
        dense = build_model("Cnn14")
        plan = plan_pruning(dense, ratio=0.5)
        clips = [(torch.rand(8, 320_000) - 0.5) for _ in range(2)]
        align(apply_plan(dense, plan), dense, clips, steps=1, plan=plan)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 4e9
