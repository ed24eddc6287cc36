import numpy as np
import pytest
import torch

from epanns.errors import PruningError
from epanns.models.provenance import recipe_problems
from epanns.models.pruning_plan import PruningPlan
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.least_squares_refit import TARGETS, Moments, refit_readers
from epanns.pruning.recovery.paired_features import mixtures_of
from epanns.pruning.recovery.recover import recover
from epanns.seeding import numpy_generator
from tests.builders import random_waveforms, same_tensors, tensors_of


def calibration():
    return random_waveforms(8, 8, 4)


def rows(n=200, inputs=6, outputs=3):
    generator = torch.Generator().manual_seed(1)
    p, noise = torch.randn(n, inputs, generator=generator), torch.randn(n, outputs, generator=generator)
    return p + 1.5, p @ torch.randn(inputs, outputs, generator=generator) + 0.3 * noise + 2.0


def moments_of(p, y, parts=1):
    moments = Moments.empty(p.shape[1], y.shape[1])
    for some_p, some_y in zip(p.tensor_split(parts), y.tensor_split(parts), strict=True):
        moments.add(some_p, some_y)
    return moments


def test_without_ridge_the_fit_equals_ordinary_least_squares_with_a_constant():
    p, y = rows()
    design = np.column_stack([p.double().numpy(), np.ones(len(p))])
    expected = np.linalg.lstsq(design, y.double().numpy(), rcond=None)[0]
    moments = moments_of(p, y)
    weights = moments.solve(torch.zeros(6, 3), 1e-12)
    np.testing.assert_allclose(weights, expected[:-1], atol=1e-6)
    np.testing.assert_allclose(moments.constant_for(weights), expected[-1], atol=1e-6)


def test_a_larger_ridge_brings_the_fit_nearer_to_the_plain_weights():
    p, y = rows()
    plain = torch.ones(6, 3)
    distances = [float((moments_of(p, y).solve(plain, ridge) - plain).norm()) for ridge in (1e-3, 1.0, 1e3, 1e9)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6


def test_the_fit_is_independent_of_the_batches():
    p, y = rows()
    whole, portioned = moments_of(p, y).solve(torch.zeros(6, 3), 0.1), moments_of(p, y, 7).solve(torch.zeros(6, 3), 0.1)
    torch.testing.assert_close(portioned, whole, rtol=1e-10, atol=1e-12)


def test_constant_inputs_keep_the_plain_weights():
    _, y = rows()
    plain = torch.full((6, 3), 2.0, dtype=torch.float64)
    torch.testing.assert_close(moments_of(torch.ones(200, 6), y).solve(plain, 1e-3), plain)


def with_copies(model):
    """Make the second half of the channels of every layer copies of the first, each with its own gain."""
    for conv in model.layer_names:
        norm = model.get_submodule(conv.replace(".conv", ".bn"))
        weight = model.get_submodule(conv).weight
        half = len(weight) // 2
        gain = torch.rand(half) + 0.5
        with torch.no_grad():
            weight[half:] = weight[:half]
            for values, factor in (
                (norm.weight, gain),
                (norm.bias, gain),
                (norm.running_mean, torch.ones(half)),
                (norm.running_var, torch.ones(half)),
            ):
                values[half:] = values[:half] * factor
    return model


def keep_first_halves(model, layers):
    kept = {layer: tuple(range(model.spec.widths[layer] // 2)) for layer in layers}
    return PruningPlan(model.spec, kept, "l1", dict.fromkeys(kept, 0.5), 0)


@pytest.mark.parametrize("fit_to", TARGETS)
@pytest.mark.parametrize("head", ["clip", "decision_max", "decision_att"])
def test_removing_duplicate_channels_is_compensated_exactly(build, head, fit_to):
    dense = with_copies(build(head=head))
    plan = keep_first_halves(dense, dense.layer_names)
    pruned = apply_plan(dense, plan)
    [clip] = random_waveforms(3, seed=9)
    expected = dense(clip)["clipwise_logits"].detach()
    assert float((pruned(clip)["clipwise_logits"].detach() - expected).abs().max()) > 1e-2
    errors = refit_readers(pruned, dense, plan, calibration, ridge=1e-6, fit_to=fit_to).errors
    torch.testing.assert_close(pruned(clip)["clipwise_logits"].detach(), expected, rtol=0, atol=1e-5)
    assert [error.reader for error in errors] == [*dense.layer_names[1:], "fc1"]
    assert all(error.is_better and error.refit < 1e-6 < error.plain for error in errors[:-1])  # fc1 has few rows


def test_fit_to_current_equals_refitting_one_layer_at_a_time(build):
    """The ridge keeps the fits well conditioned, because processors round float32 convolutions differently."""
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block2", "conv_block4.conv1", "conv_block6"])
    pruned = apply_plan(dense, plan)
    errors = refit_readers(pruned, dense, plan, calibration, fit_to="current", ridge=0.1).errors
    before, expected = dense, []
    for layer, kept in plan.kept_channels.items():
        step = PruningPlan(before.spec, {layer: kept}, "l1", {layer: 0.5}, 0)
        after = apply_plan(before, step)
        expected += refit_readers(after, before, step, calibration, fit_to="dense", ridge=0.1).errors
        before = after
    assert [error.reader for error in errors] == [error.reader for error in expected]
    for error, one in zip(errors, expected, strict=True):
        assert (error.plain, error.refit) == pytest.approx((one.plain, one.refit), rel=1e-3)
    for name, value in before.state_dict().items():
        torch.testing.assert_close(pruned.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_the_two_targets_give_different_weights_and_are_recorded(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5)
    weights = []
    for fit_to in TARGETS:
        pruned = apply_plan(dense, plan)
        refit_readers(pruned, dense, plan, calibration, fit_to=fit_to)
        assert pruned.provenance.recipe[-1].settings["fit_to"] == fit_to
        weights.append(pruned.conv_block5.conv1.weight.detach())
    assert float((weights[0] - weights[1]).norm() / weights[0].norm()) > 0.05


def test_a_refitted_reader_equals_numpy_least_squares(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block5.conv2"])
    pruned = apply_plan(dense, plan)
    fitted = torch.cat(calibration())[torch.arange(20) % 5 != 1]
    with torch.no_grad():
        inputs, target = through(pruned, fitted, 10), dense.conv_block6.conv1(through(dense, fitted, 10))
    rows = torch.nn.functional.unfold(inputs, 3, padding=1).transpose(1, 2).flatten(0, 1).double().numpy()
    design = np.column_stack([rows, np.ones(len(rows))])
    wanted = target.flatten(2).transpose(1, 2).flatten(0, 1).double().numpy()
    expected = np.linalg.lstsq(design, wanted, rcond=None)[0]
    mean = pruned.conv_block6.bn1.running_mean.double().numpy()
    error = refit_readers(pruned, dense, plan, calibration, ridge=1e-9).errors[0]
    assert error.is_better
    found = pruned.conv_block6.conv1.weight.detach().flatten(1).T.numpy()
    np.testing.assert_allclose(
        design @ np.vstack([found, mean - pruned.conv_block6.bn1.running_mean.numpy()]), design @ expected, atol=1e-3
    )


def test_a_large_ridge_changes_only_the_means(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block2.conv1"])
    pruned = apply_plan(dense, plan)
    plain = pruned.conv_block2.conv2.weight.clone()
    refit_readers(pruned, dense, plan, calibration, ridge=1e12)
    torch.testing.assert_close(pruned.conv_block2.conv2.weight, plain)
    fitted = torch.cat(calibration())[torch.arange(20) % 5 != 1]  # the other clips are held out
    with torch.no_grad():
        mean, expected = (
            model.conv_block2.bn2(model.conv_block2.conv2(through(model, fitted, 3))).mean(dim=(0, 2, 3))
            for model in (pruned, dense)
        )
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)


def through(model, waveform, stage):
    features = model.begin(model.inputs_of(waveform))
    for step in model.stages()[:stage]:
        features = step(features)
    (last,) = features
    return last


def test_stages_and_pooling_equal_the_forward_pass(build):
    model = build()
    [clip] = random_waveforms(2)
    with torch.no_grad():
        hidden = torch.relu(model.fc1(model.pooled((through(model, clip, len(model.layer_names)),))))
        torch.testing.assert_close(hidden, model(clip)["embedding"])


def test_refit_reduces_the_distance_to_the_unpruned_network_and_does_not_change_it(build):
    dense = build()
    before = tensors_of(dense)
    plan = plan_pruning(dense, ratio=0.5)
    plain, pruned = apply_plan(dense, plan), apply_plan(dense, plan).train()
    errors = refit_readers(pruned, dense, plan, calibration).errors
    assert pruned.training
    [clip] = random_waveforms(16, seed=9)
    expected = dense(clip)["embedding"].detach()
    far, near = (float((model.eval()(clip)["embedding"].detach() - expected).norm()) for model in (plain, pruned))
    assert near < 0.7 * far
    assert same_tensors(dense, before)
    assert all(min(error.plain, error.refit) >= 0 for error in errors)


def test_the_recipe_records_the_errors_of_every_reader(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block5"])
    pruned = apply_plan(dense, plan)
    errors = refit_readers(pruned, dense, plan, calibration).errors
    step = pruned.provenance.recipe[-1].settings
    assert (step["method"], step["clips"]) == ("ls", 20)
    assert step["errors"]["conv_block6.conv1"] == {"plain": errors[1].plain, "refit": errors[1].refit}
    assert recipe_problems(pruned.provenance.to_dict()["recipe"]) == []


def test_features_beyond_the_cache_are_computed_again(build, monkeypatch):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5)
    results = []
    for limit in (1 << 30, 0):
        monkeypatch.setattr("epanns.pruning.recovery.paired_features._MOST_CACHED_BYTES", limit)
        pruned = apply_plan(dense, plan)
        refit_readers(pruned, dense, plan, calibration)
        results.append(pruned.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-5, atol=1e-6)


def nan_in(clip):
    [batch] = random_waveforms(10)
    batch[clip] = float("nan")
    return batch


def test_an_unpruned_network_with_infinite_outputs_is_refused(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block2"])
    pruned = apply_plan(dense, plan)
    with torch.no_grad():
        dense.conv_block2.conv2.weight.fill_(float("inf"))
    with pytest.raises(
        PruningError,
        match="conv_block2.conv2: outputs are not finite on the calibration clips; look for bad clips or weights",
    ):
        refit_readers(pruned, dense, plan, calibration)
    assert all(bool(value.isfinite().all()) for value in pruned.state_dict().values())


@pytest.mark.parametrize(
    ("batches", "match"),
    [
        (lambda: [], "0 calibration clips: give at least two, some hundreds if you can"),
        (lambda: random_waveforms(1), "1 calibration clips: give at least two"),
        (lambda: [torch.zeros(2, 5_600, dtype=torch.int16)], r"type torch.int16, .*: give floats in \[-1, 1\]"),
        (lambda: [torch.zeros(5, 5_600)], r"all 5 calibration clips are silent \(zeros\): give sound"),
        (lambda: [torch.full((10, 5_600), float("nan"))], "conv_block2.conv2.*look for bad clips or weights"),
        (lambda: [nan_in(1)], "conv_block2.conv2.*look for bad clips or weights"),
        (lambda: [nan_in(2)], "conv_block2.conv2.*look for bad clips or weights"),
    ],
)
def test_invalid_clips_are_refused_and_leave_the_network_unchanged(build, batches, match):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block2"])
    pruned = apply_plan(dense, plan)
    before = tensors_of(pruned)
    with pytest.raises(PruningError, match=match):
        refit_readers(pruned, dense, plan, batches)
    assert same_tensors(pruned, before)
    assert "errors" not in str(pruned.provenance)


def test_networks_with_other_widths_than_the_plan_are_refused(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5)
    with pytest.raises(PruningError, match="the pruned network's widths are not the plan's: give the two"):
        recover(dense, dense, calibration, plan=plan)
    with pytest.raises(PruningError, match="the dense network's widths are not the plan's"):
        recover(apply_plan(dense, plan), apply_plan(dense, plan), calibration, plan=plan)


def test_layers_with_many_inputs_are_fitted_in_alternating_blocks(build, monkeypatch):
    dense = with_copies(build())
    plan = keep_first_halves(dense, ["conv_block5.conv1"])
    errors = []
    for most in (10_000, 20):
        monkeypatch.setattr("epanns.pruning.recovery.least_squares_refit._MOST_INPUTS", most)
        pruned = apply_plan(dense, plan)
        errors += refit_readers(pruned, dense, plan, calibration, ridge=1e-6).errors
    whole, parted = errors
    assert parted.plain == pytest.approx(whole.plain, rel=1e-9)
    assert whole.refit < parted.refit < 0.5 * parted.plain


def test_mixtures_are_reproducible_and_excluded_from_the_evaluation(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block2"])
    results = {}
    for name, mixtures in (("none", 0), ("two", 2), ("again", 2)):
        pruned = apply_plan(dense, plan)
        refit = refit_readers(pruned, dense, plan, calibration, mixtures=mixtures)
        assert refit.clips == 20
        results[name] = (refit.errors, pruned.conv_block3.conv1.weight.detach())
        assert pruned.provenance.recipe[-1].settings.get("mixtures", 0) == mixtures
    assert results["two"][0] == results["again"][0]
    assert torch.equal(results["two"][1], results["again"][1])
    assert not torch.equal(results["two"][1], results["none"][1])
    # The constant of the plain weights is fitted with the mixtures; both errors are measured on the same clips.
    assert results["two"][0][0].plain == pytest.approx(results["none"][0][0].plain, rel=0.2)
    assert recipe_problems(pruned.provenance.to_dict()["recipe"]) == []


@pytest.mark.parametrize("n_clips", [2, 3, 7])
def test_a_mixture_joins_two_different_clips(n_clips):
    clips = (torch.arange(n_clips) + 1.0)[:, None].expand(-1, 16)  # constant, so that a rotation has no effect
    others = set()
    for seed in range(40):
        weights = torch.from_numpy(numpy_generator("law", seed).random(n_clips)).to(clips)
        mixed = mixtures_of(clips, numpy_generator("law", seed))[:, 0]
        other = ((mixed - weights * clips[:, 0]) / (1 - weights)).round().long() - 1
        assert (other != torch.arange(n_clips)).all()
        others |= {(clip, int(one)) for clip, one in enumerate(other)}
    assert len(others) == n_clips * (n_clips - 1)


def test_a_single_clip_is_mixed_with_its_own_rotation():
    clip = torch.arange(8.0)[None]
    weight = float(numpy_generator("law", 1).random(1)[0])
    mixed = mixtures_of(clip, numpy_generator("law", 1))
    rolls = [weight * clip + (1 - weight) * torch.roll(clip, moment, dims=1) for moment in range(8)]
    assert sum(bool(torch.allclose(mixed, roll)) for roll in rolls) == 1
