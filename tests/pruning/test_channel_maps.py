"""The published baselines ``grail`` and ``fold``: formulae, exactness on duplicates, differences from ``ls``."""

import numpy as np
import pytest
import torch

from epanns.errors import PruningError
from epanns.models.provenance import recipe_problems
from epanns.models.pruning_plan import PruningPlan
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.channel_maps import compensate_channels, nearest_map, ridge_map
from epanns.pruning.recovery.recover import recover
from tests.builders import random_waveforms, same_tensors, tensors_of
from tests.pruning.test_least_squares_refit import keep_first_halves, with_copies
from tests.pruning.test_refit_families import calibration as sound_for
from tests.pruning.test_refit_families import scores, sound, trained_like, without_copies
from tests.pruning.test_refit_families import with_copies as with_copies_in_groups


def calibration():
    return random_waveforms(8, 8, 4)


def test_the_map_between_channels_is_a_ridge_regression_without_constant():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(300, 7)) + 2.0
    kept, ridge = [1, 2, 5], 0.01
    gram = rows.T @ rows
    strength = ridge * np.diag(gram)[kept].mean()
    design = np.vstack([rows[:, kept], np.sqrt(strength) * np.eye(3)])
    expected = np.linalg.lstsq(design, np.vstack([rows, np.zeros((3, 7))]), rcond=None)[0]
    found = ridge_map(torch.from_numpy(gram), torch.tensor(kept), ridge)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    scaled = ridge_map(torch.from_numpy(gram) * 17, torch.tensor(kept), ridge)
    np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-9)  # a sum and a mean over rows do the same


def test_a_removed_channel_is_merged_into_the_kept_one_that_explains_most_of_it():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 400, generator=generator, dtype=torch.float64)
    noise = 0.01 * torch.rand(400, generator=generator, dtype=torch.float64)
    rows = torch.stack([first, 3 * second, second, 0.5 * first + noise, torch.zeros(400, dtype=torch.float64)], dim=1)
    found = nearest_map(rows.T @ rows, torch.tensor([0, 2]))
    factor = float(rows[:, 0] @ rows[:, 3] / rows[:, 0].square().sum())
    expected = torch.tensor([[1, 0, 0, factor, 0], [0, 3, 1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    assert torch.equal(nearest_map(torch.zeros(3, 3, dtype=torch.float64), torch.tensor([1]))[:, 1], torch.ones(1))


def test_a_reader_is_multiplied_by_the_map_at_each_tap_and_nothing_else_changes(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block3.conv1"])
    pruned = apply_plan(dense, plan)
    before = tensors_of(pruned)
    n_clips = compensate_channels(pruned, dense, plan, calibration, ridge=0.01)
    assert n_clips == 20
    read = []
    handle = dense.conv_block3.conv2.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        dense(torch.cat(calibration()))
    handle.remove()
    rows = read[0].double().movedim(1, -1).flatten(0, -2)
    channel_map = ridge_map(rows.T @ rows, torch.tensor(plan.kept_channels["conv_block3.conv1"]), 0.01)
    whole, found = dense.conv_block3.conv2.weight.detach().double(), pruned.conv_block3.conv2.weight.detach().double()
    for tap in np.ndindex(3, 3):
        expected = whole[..., tap[0], tap[1]] @ channel_map.T
        torch.testing.assert_close(found[..., tap[0], tap[1]], expected, rtol=1e-4, atol=1e-5)
    changed = {name for name, value in pruned.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"conv_block3.conv2.weight"}
    compensate_channels(pruned, dense, plan, calibration, "fold")
    kept = list(plan.kept_channels["conv_block3.conv1"])
    merged = nearest_map(rows.T @ rows, torch.tensor(kept))
    expected = torch.einsum("oh...,ph->op...", whole, merged)
    torch.testing.assert_close(pruned.conv_block3.conv2.weight.detach().double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["grail", "fold"])
def test_removing_proportional_channels_is_compensated_exactly(build, method):
    dense = with_copies(build())
    plan = keep_first_halves(dense, dense.layer_names)
    pruned = apply_plan(dense, plan)
    [clip] = random_waveforms(3, seed=9)
    expected = dense(clip)["clipwise_logits"].detach()
    assert float((pruned(clip)["clipwise_logits"].detach() - expected).abs().max()) > 1e-2
    compensate_channels(pruned, dense, plan, calibration, method, ridge=1e-9)
    torch.testing.assert_close(pruned(clip)["clipwise_logits"].detach(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["grail", "fold"])
@pytest.mark.parametrize("name", ["ResNet22", "MobileNetV2", "YAMNet", "LEAN", "mn01", "Wavegram_Logmel_Cnn14"])
def test_duplicates_are_compensated_in_streams_depthwise_groups_gates_and_joined_tensors(name, method):
    dense = with_copies_in_groups(trained_like(name))
    plan = without_copies(dense)
    pruned = apply_plan(dense, plan)
    clip = sound(3, seed=9, model=dense)
    expected = scores(dense, clip)
    lost = float((scores(pruned, clip) - expected).abs().max() / expected.abs().max())
    compensate_channels(pruned, dense, plan, sound_for(dense, 160), method, ridge=1e-9)
    left = float((scores(pruned, clip) - expected).abs().max() / expected.abs().max())
    assert left < 1e-4 < 0.5 < lost


def test_it_is_no_setting_of_ls(build):
    """On a linear reader both are ridge regressions on the kept channels, but ``ls`` fits a constant too."""
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block6.conv2"])
    with torch.no_grad():
        dense.conv_block6.bn2.bias.add_(1.0)  # channels with a mean
    networks = {method: apply_plan(dense, plan) for method in ("grail", "ls")}
    for method, network in networks.items():
        recover(network, dense, random_waveforms(60), method, plan=plan, ridge=1e-6)
    [clip] = random_waveforms(30, seed=9)
    expected = dense(clip)["embedding"].detach()
    errors = {
        method: float((network(clip)["embedding"].detach() - expected).norm()) for method, network in networks.items()
    }
    assert errors["ls"] < errors["grail"]
    assert torch.equal(networks["grail"].fc1.bias, dense.fc1.bias)
    assert not torch.equal(networks["ls"].fc1.bias, dense.fc1.bias)


def test_a_large_ridge_silences_the_readers_and_the_recipe_states_it(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block2.conv1"])
    pruned = apply_plan(dense, plan)
    report = recover(pruned, dense, calibration, "grail", plan=plan, ridge=1e12)
    assert float(pruned.conv_block2.conv2.weight.detach().abs().max()) < 1e-6
    assert report == {"method": "grail", "clips": 20, "ridge": 1e12}
    settings = pruned.provenance.recipe[-1].settings
    assert (settings["method"], settings["clips"], settings["ridge"]) == ("grail", 20, 1e12)
    assert recipe_problems(pruned.provenance.to_dict()["recipe"]) == []


def test_broken_clips_are_refused_and_leave_the_network_unchanged(build):
    dense = build()
    plan = PruningPlan(dense.spec, {"conv_block2.conv1": (0, 1)}, "l1", {"conv_block2.conv1": 0.5}, 0)
    pruned = apply_plan(dense, plan)
    before = tensors_of(pruned)
    for batches in ([torch.full((4, 5_600), float("nan"))], [torch.zeros(4, 5_600)], random_waveforms(1)):
        with pytest.raises(PruningError, match=r"look for bad clips|are silent|at least two"):
            compensate_channels(pruned, dense, plan, batches)
    assert same_tensors(pruned, before)
