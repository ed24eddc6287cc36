"""The refit in every family: residual streams, depthwise layers, joined tensors, one dimension."""

import pytest
import torch
from torch import nn

from epanns.models.pruning_plan import PruningPlan
from epanns.models.spec import WITHOUT_FC1
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.prune import apply_plan
from epanns.pruning.recovery.least_squares_refit import TARGETS, refit_readers
from epanns.pruning.surgery import channel_groups
from tests.builders import tensors_of

# Networks that differ from others only in depth, or only behind the last layer that reads pruned channels.
DEEPER = ("ResNet38", "ResNet54", "Res1dNet51", "LeeNet24", "Wavegram_Logmel128_Cnn14")
ALIKE = ("YAMNet_linear", "YAMNet_projection", "LEAN_affinity", "LEAN_concat")
ALIKE += ("mn02", "mn05", "mn10", "mn20", "mn30", "mn40")  # mn04, and mn01 with fewer expansions, stand for them
ROWS = [name for name, spec in ZOO.items() if spec.family != "cnn" and name not in (*DEEPER, *ALIKE)]


def trained_like(name):
    """Return a narrow network with random batch norms that have the statistics of its inputs."""
    torch.manual_seed(0)
    spec = ZOO[name]
    model = build_model(spec.scaled(1 / 16 if spec.front_end.kind == "panns" else 1 / 8), num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if isinstance(module.weight, nn.Parameter):  # YAMNet's have no scale
                nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None
        elif model.gate_layers and isinstance(module, nn.Linear):  # so small in new networks of mn that gates are equal
            nn.init.xavier_normal_(module.weight)
    with torch.no_grad():
        model.train()(sound(4, seed=1, model=model))
    return model.eval()


def sound(clips, *, seed, model):
    """Return low-pass noise."""
    n_samples = 2 * max(model.minimum_samples, 4_000)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(clips, 1, n_samples // 32 + 2, generator=generator) - 0.5
    return nn.functional.interpolate(noise, scale_factor=32.0, mode="linear")[:, 0, :n_samples]


def calibration(model, clips=12):
    return lambda: [sound(clips // 2, seed=seed, model=model) for seed in (2, 3)]


def scores(model, waveform):
    """Return the embedding, or the logits where the embedding is the pruned channels themselves."""
    key = "clipwise_logits" if model.spec.family in WITHOUT_FC1 else "embedding"
    with torch.no_grad():
        return model(waveform)[key]


@pytest.mark.parametrize("name", ROWS)
def test_every_reader_of_every_pruned_group_is_refitted(name, monkeypatch):
    dense = trained_like(name)
    groups = channel_groups(dense)
    plan = without_copies(dense)
    readers = {reader.name for layer in plan.pruned_layers for reader in groups[layer].readers}
    states = []
    for limit in (1 << 30, 0):  # features cached, and computed again: no step may change its inputs in place
        monkeypatch.setattr("epanns.pruning.recovery.paired_features._MOST_CACHED_BYTES", limit)
        pruned = apply_plan(dense, plan)
        plain = tensors_of(pruned)
        refit = refit_readers(pruned, dense, plan, calibration(dense))
        states.append(pruned.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=1e-3, atol=1e-4)
    assert {error.reader for error in refit.errors} == readers
    changed = {name for name, value in pruned.state_dict().items() if not torch.equal(value, plain[name])}
    assert {f"{error.reader}.weight" for error in refit.errors if error.is_better} <= changed
    assert {f"{norm}.running_mean" for norm in refit.norms} <= changed
    assert not {name for name in changed if name.endswith("running_var")}
    depthwise = {layer for group in groups.values() for layer in group.depthwise}
    assert not {f"{layer}.weight" for layer in depthwise} & changed
    assert bool(refit.norms) == bool(depthwise)


@pytest.mark.parametrize("name", ["MobileNetV1", "MobileNetV2", "YAMNet", "mn01"])
def test_refit_restores_the_mean_behind_depthwise_layers_and_not_the_variance(name):
    """The inputs are predictions: enlarged to the variance of what they predict, they would be farther from it.

    On the clips of the fit, which differ from the clips of the original statistics.
    """
    dense = trained_like(name)
    plan = without_copies(dense)
    pruned = apply_plan(dense, plan)
    norms = refit_readers(pruned, dense, plan, calibration(dense)).norms
    assert norms
    clips = torch.cat(calibration(dense)())
    fitted = clips[torch.arange(len(clips)) % 5 != 1]
    groups = channel_groups(dense)
    kept = {norm: channels for layer, channels in plan.kept_channels.items() for norm in groups[layer].norms}
    ours, theirs = normed(pruned, fitted), normed(dense, fitted)
    as_they_are = enlarged = 0.0
    for norm in norms:
        found, expected = (
            values.transpose(0, 1).flatten(1) for values in (ours[norm], theirs[norm][:, list(kept[norm])])
        )
        torch.testing.assert_close(found.mean(dim=1), expected.mean(dim=1), rtol=1e-3, atol=1e-3)
        found, expected = (values - values.mean(dim=1, keepdim=True) for values in (found, expected))
        as_they_are += float((found - expected).square().sum())
        scale = expected.norm(dim=1, keepdim=True) / found.norm(dim=1, keepdim=True).clamp_min(1e-9)
        enlarged += float((found * scale - expected).square().sum())
    assert as_they_are < enlarged


def normed(model, waveform):
    """Return the output of each batch norm."""
    found = {}
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: found.update({name: output.double()}))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model(waveform)
    for handle in handles:
        handle.remove()
    return found


def without_copies(model):
    """Return the plan that removes the second half of the channels of every group."""
    kept = {
        layer: tuple(channel for channel in range(width) if not width // 2 <= channel < 2 * (width // 2))
        for layer, width in model.spec.widths.items()
        if width > 1
    }
    return PruningPlan(model.spec, kept, "l1", dict.fromkeys(kept, 0.5), 0)


def with_copies(model):
    """Make the second half of the channels of every group copies of the first."""
    state = model.state_dict()
    for group in channel_groups(model).values():
        half = group.width // 2
        for layer in (*group.producers, *group.depthwise, *group.gates, *group.norms):
            for name, values in model.get_submodule(layer).state_dict(prefix=f"{layer}.").items():
                if values.dim() and len(values) == group.width:
                    state[name][half : 2 * half] = state[name][:half]
    model.load_state_dict(state)
    return model


def left_and_lost(name, *, ridge, fit_to="dense"):
    """Return the largest error after removal of the copies, with and without refit, relative to the largest output."""
    dense = with_copies(trained_like(name))
    plan = without_copies(dense)
    pruned = apply_plan(dense, plan)
    clip = sound(3, seed=9, model=dense)
    expected = scores(dense, clip)
    far = scores(pruned, clip) - expected
    refit_readers(pruned, dense, plan, calibration(dense, 160), ridge=ridge, fit_to=fit_to)
    near = scores(pruned, clip) - expected
    greatest = expected.abs().max()
    return float(near.abs().max() / greatest), float(far.abs().max() / greatest)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("fit_to", TARGETS)
def test_removing_duplicate_channels_is_compensated_exactly(name, fit_to):
    left, lost = left_and_lost(name, ridge=1e-9, fit_to=fit_to)
    assert left < 1e-5 < 0.5 < lost


@pytest.mark.parametrize("name", ROWS)
def test_the_remaining_error_is_bounded_by_the_ridge(name):
    """Directions with less variance than the ridge of 1e-6 keep the plain weights.

    The square root of 1e-6 bounds the error by 1e-3 of the spread of a layer; MobileNetV1 alone is below 1e-5.
    """
    left, _ = left_and_lost(name, ridge=1e-6)
    assert left < (1e-5 if name == "MobileNetV1" else 1e-3)
