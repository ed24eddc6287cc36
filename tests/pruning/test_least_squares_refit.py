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

SAMPLES = 80 * 70


def clips(*sizes, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, SAMPLES, generator=generator) - 0.5 for size in sizes]


def calibration():
    return clips(8, 8, 4)


def rows(n=200, inputs=6, outputs=3):
    generator = torch.Generator().manual_seed(1)
    p, noise = torch.randn(n, inputs, generator=generator), torch.randn(n, outputs, generator=generator)
    return p + 1.5, p @ torch.randn(inputs, outputs, generator=generator) + 0.3 * noise + 2.0


def moments_of(p, y, parts=1):
    moments = Moments.empty(p.shape[1], y.shape[1])
    for some_p, some_y in zip(p.tensor_split(parts), y.tensor_split(parts), strict=True):
        moments.add(some_p, some_y)
    return moments


def test_without_a_ridge_it_is_ordinary_least_squares_with_a_constant():
    p, y = rows()
    design = np.column_stack([p.double().numpy(), np.ones(len(p))])
    expected = np.linalg.lstsq(design, y.double().numpy(), rcond=None)[0]
    moments = moments_of(p, y)
    weights = moments.solve(torch.zeros(6, 3), 1e-12)
    np.testing.assert_allclose(weights, expected[:-1], atol=1e-6)
    np.testing.assert_allclose(moments.constant_for(weights), expected[-1], atol=1e-6)


def test_the_ridge_pulls_toward_the_plain_weights():
    p, y = rows()
    plain = torch.ones(6, 3)
    distances = [float((moments_of(p, y).solve(plain, ridge) - plain).norm()) for ridge in (1e-3, 1.0, 1e3, 1e9)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6


def test_rows_may_come_in_any_portions():
    p, y = rows()
    whole, portioned = moments_of(p, y).solve(torch.zeros(6, 3), 0.1), moments_of(p, y, 7).solve(torch.zeros(6, 3), 0.1)
    torch.testing.assert_close(portioned, whole, rtol=1e-10, atol=1e-12)


def test_inputs_that_never_vary_keep_the_plain_weights():
    _, y = rows()
    plain = torch.full((6, 3), 2.0, dtype=torch.float64)
    torch.testing.assert_close(moments_of(torch.ones(200, 6), y).solve(plain, 1e-3), plain)


def with_copies(model):
    """Make the second half of every layer's channels copies of the first, each with its own gain."""
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
def test_channels_that_are_copies_can_go_without_a_trace(build, head, fit_to):
    dense = with_copies(build(head=head))
    plan = keep_first_halves(dense, dense.layer_names)
    pruned = apply_plan(dense, plan)
    clip = clips(3, seed=9)[0]
    expected = dense(clip)["clipwise_logits"].detach()
    assert float((pruned(clip)["clipwise_logits"].detach() - expected).abs().max()) > 1e-2
    errors = refit_readers(pruned, dense, plan, calibration, ridge=1e-6, fit_to=fit_to).errors
    torch.testing.assert_close(pruned(clip)["clipwise_logits"].detach(), expected, rtol=0, atol=1e-5)
    assert [error.reader for error in errors] == [*dense.layer_names[1:], "fc1"]
    assert all(error.is_better and error.refit < 1e-6 < error.plain for error in errors[:-1])  # fc1 has few rows


def test_current_is_one_layer_after_the_other_each_against_the_network_before_it(build):
    """With a ridge that keeps the fits well conditioned: processors round float32 convolutions differently."""
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


def test_what_is_fitted_to_matters(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5)
    weights = []
    for fit_to in TARGETS:
        pruned = apply_plan(dense, plan)
        refit_readers(pruned, dense, plan, calibration, fit_to=fit_to)
        assert pruned.provenance.recipe[-1].settings["fit_to"] == fit_to
        weights.append(pruned.conv_block5.conv1.weight.detach())
    assert float((weights[0] - weights[1]).norm() / weights[0].norm()) > 0.05


def test_a_reader_is_numpys_least_squares_fit_to_the_unpruned_network(build):
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


def test_a_great_ridge_leaves_the_weights_and_makes_the_means_right(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block2.conv1"])
    pruned = apply_plan(dense, plan)
    plain = pruned.conv_block2.conv2.weight.clone()
    refit_readers(pruned, dense, plan, calibration, ridge=1e12)
    torch.testing.assert_close(pruned.conv_block2.conv2.weight, plain)
    fitted = torch.cat(calibration())[torch.arange(20) % 5 != 1]  # the others judge
    with torch.no_grad():
        mean, expected = (
            model.conv_block2.bn2(model.conv_block2.conv2(through(model, fitted, 3))).mean(dim=(0, 2, 3))
            for model in (pruned, dense)
        )
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)


def through(model, waveform, stage):
    features = model.features_of(waveform)
    for step in model.stages()[:stage]:
        features = step(features)
    (last,) = features
    return last


def test_steps_and_pooling_are_the_network(build):
    model = build()
    clip = clips(2)[0]
    with torch.no_grad():
        hidden = torch.relu(model.fc1(model.pooled((through(model, clip, len(model.layer_names)),))))
        torch.testing.assert_close(hidden, model(clip)["embedding"])


def test_it_comes_nearer_to_the_unpruned_network_and_leaves_that_alone(build):
    dense = build()
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    plan = plan_pruning(dense, ratio=0.5)
    plain, pruned = apply_plan(dense, plan), apply_plan(dense, plan).train()
    errors = refit_readers(pruned, dense, plan, calibration).errors
    assert pruned.training
    clip = clips(16, seed=9)[0]
    expected = dense(clip)["embedding"].detach()
    far, near = (float((model.eval()(clip)["embedding"].detach() - expected).norm()) for model in (plain, pruned))
    assert near < 0.7 * far
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert all(min(error.plain, error.refit) >= 0 for error in errors)


def test_the_errors_are_kept_in_the_recipe(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block5"])
    pruned = apply_plan(dense, plan)
    errors = refit_readers(pruned, dense, plan, calibration).errors
    step = pruned.provenance.recipe[-1].settings
    assert (step["method"], step["clips"]) == ("ls", 20)
    assert step["errors"]["conv_block6.conv1"] == {"plain": errors[1].plain, "refit": errors[1].refit}
    assert recipe_problems(pruned.provenance.to_dict()["recipe"]) == []


def test_features_that_do_not_fit_in_the_cache_are_computed_again(build, monkeypatch):
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
    batch = clips(10)[0]
    batch[clip] = float("nan")
    return batch


def test_an_unpruned_network_that_overflows_is_refused(build):
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
        (lambda: clips(1), "1 calibration clips: give at least two"),
        (lambda: [torch.zeros(2, SAMPLES, dtype=torch.int16)], r"type torch.int16, .*: give floats in \[-1, 1\]"),
        (lambda: [torch.zeros(5, SAMPLES)], r"all 5 calibration clips are silent \(zeros\): give sound"),
        (lambda: [torch.full((10, SAMPLES), float("nan"))], "conv_block2.conv2.*look for bad clips or weights"),
        (lambda: [nan_in(1)], "conv_block2.conv2.*look for bad clips or weights"),
        (lambda: [nan_in(2)], "conv_block2.conv2.*look for bad clips or weights"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_leaves_the_network_as_it_was(build, batches, match):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block2"])
    pruned = apply_plan(dense, plan)
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    with pytest.raises(PruningError, match=match):
        refit_readers(pruned, dense, plan, batches)
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())
    assert "errors" not in str(pruned.provenance)


def test_networks_that_the_plan_does_not_connect_are_refused(build):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5)
    with pytest.raises(PruningError, match="the pruned network's widths are not the plan's: give the two"):
        recover(dense, dense, calibration, plan=plan)
    with pytest.raises(PruningError, match="the dense network's widths are not the plan's"):
        recover(apply_plan(dense, plan), apply_plan(dense, plan), calibration, plan=plan)


def test_too_many_inputs_are_fitted_in_parts_that_take_turns(build, monkeypatch):
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


def test_mixtures_are_rows_of_the_fit_alone_and_the_same_each_time(build):
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
    # The plain weights' constant is fitted with the mixtures; apart from that they are judged on the same clips.
    assert results["two"][0][0].plain == pytest.approx(results["none"][0][0].plain, rel=0.2)
    assert recipe_problems(pruned.provenance.to_dict()["recipe"]) == []


@pytest.mark.parametrize("n_clips", [2, 3, 7])
def test_a_mixture_is_never_of_a_clip_with_itself_where_there_is_another(n_clips):
    clips = (torch.arange(n_clips) + 1.0)[:, None].expand(-1, 16)  # constant, so that the moment does not matter
    others = set()
    for seed in range(40):
        weights = torch.from_numpy(numpy_generator("law", seed).random(n_clips)).to(clips)
        mixed = mixtures_of(clips, numpy_generator("law", seed))[:, 0]
        other = ((mixed - weights * clips[:, 0]) / (1 - weights)).round().long() - 1
        assert (other != torch.arange(n_clips)).all()
        others |= {(clip, int(one)) for clip, one in enumerate(other)}
    assert len(others) == n_clips * (n_clips - 1)


def test_a_clip_that_is_alone_ismixtures_of_with_itself_from_another_moment():
    clip = torch.arange(8.0)[None]
    weight = float(numpy_generator("law", 1).random(1)[0])
    mixed = mixtures_of(clip, numpy_generator("law", 1))
    rolls = [weight * clip + (1 - weight) * torch.roll(clip, moment, dims=1) for moment in range(8)]
    assert sum(bool(torch.allclose(mixed, roll)) for roll in rolls) == 1
