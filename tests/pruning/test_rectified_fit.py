"""Least squares behind a ReLU: the rectifier, the fit, and the layers that a ReLU follows."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from epanns.errors import PruningError
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.prune import prune
from epanns.pruning.recovery import rectified_fit
from epanns.pruning.recovery.least_squares_refit import refit_readers
from epanns.pruning.recovery.rectified_fit import HeldRows, Rectifier, fit_rectified, rectified_layers


def rows_of(seed, count=400, inputs=6, outputs=4):
    """Return inputs, of which two are removed, and the outputs that all of them made, mostly negative."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
    weights = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    return p[:, : inputs - 2], p @ weights - 1.5, weights[: inputs - 2]


def norm_of(seed, channels=4):
    norm = nn.BatchNorm2d(channels).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (norm.weight, norm.bias, norm.running_mean):
            part.copy_(torch.randn(channels, generator=generator))
        norm.running_var.copy_(torch.rand(channels, generator=generator) + 0.1)
    return norm


@given(seed=st.integers(0, 2**31))
def test_a_rectifier_changes_nothing_behind_batch_norm_and_relu(seed):
    norm = norm_of(seed)
    rectifier = Rectifier.behind(norm, 4)
    y = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed + 1))

    def behind(values):
        return F.relu(norm(values[:, :, None, None]))

    torch.testing.assert_close(behind(rectifier.passed(y)), behind(y), atol=1e-5, rtol=1e-4)
    is_blocked = rectifier.passed(y) != y
    assert torch.equal(behind(y)[is_blocked].count_nonzero(), torch.tensor(0)) or behind(y)[is_blocked].max() < 1e-5


def test_an_output_whose_batch_norm_has_scale_zero_passes_unchanged():
    norm = norm_of(0)
    with torch.no_grad():
        norm.weight[1] = 0
    y = torch.randn(50, 4)
    assert torch.equal(Rectifier.behind(norm, 4).passed(y)[:, 1], y[:, 1])


@given(seed=st.integers(0, 2**31))
def test_targets_have_the_wanted_value_behind_the_relu_and_are_nearest_to_the_prediction(seed):
    generator = torch.Generator().manual_seed(seed)
    wanted, predicted = torch.randn(2, 30, 4, generator=generator)
    rectifier = Rectifier.behind(norm_of(seed), 4)
    targets = rectifier.targets(wanted, predicted)
    torch.testing.assert_close(rectifier.passed(targets), rectifier.passed(wanted), atol=1e-5, rtol=1e-5)
    is_blocked = rectifier.passed(wanted) != wanted
    agrees = is_blocked & (rectifier.passed(predicted) != predicted)
    torch.testing.assert_close(targets[agrees], predicted[agrees], atol=1e-5, rtol=1e-5)
    assert torch.equal(targets[~is_blocked], wanted[~is_blocked])


@given(seed=st.integers(0, 2**31))
def test_without_a_relu_it_is_ridge_regression_with_a_constant(seed):
    p, y, plain = rows_of(seed)
    rows = HeldRows([(p[:150], y[:150]), (p[150:], y[150:])])
    fit = fit_rectified(rows, rows, plain, None, ridge=1e-6, iterations=5)
    with_constant = torch.cat([p, torch.ones(len(p), 1, dtype=torch.float64)], dim=1)
    expected = torch.linalg.lstsq(with_constant, y).solution
    torch.testing.assert_close(torch.cat([fit.weights, fit.constant[None]]), expected, atol=1e-3, rtol=1e-3)


@given(seed=st.integers(0, 2**31))
def test_each_iteration_lowers_the_error_behind_the_relu(seed):
    p, y, plain = rows_of(seed)
    rows, rectifier = HeldRows([(p, y)]), Rectifier.behind(None, 4)
    errors = [fit_rectified(rows, rows, plain, rectifier, ridge=1e-9, iterations=n).refit for n in (0, 1, 4, 16)]
    assert errors == sorted(errors, reverse=True)


def test_what_a_relu_blocks_costs_a_linear_fit_much():
    p, y, plain = rows_of(3)
    rows, rectifier = HeldRows([(p, y)]), Rectifier.behind(None, 4)
    linear, fit = (fit_rectified(rows, rows, plain, rectifier, ridge=1e-6, iterations=n) for n in (0, 50))
    assert fit.refit < 0.9 * linear.refit <= linear.plain
    error = (F.relu(p @ fit.weights + fit.constant) - F.relu(y)).square().mean(dim=0)
    assert fit.refit == pytest.approx(float((error / F.relu(y).var(dim=0, correction=0)).mean()), rel=1e-4)


def test_a_ridge_is_chosen_on_the_held_out_rows():
    """Five rows cannot fit six inputs: the held-out rows prefer to stay near the plain weights, which are right."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    few, many = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (5, 200))
    noise = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    fitted, held_out = HeldRows([(few, few @ weights + noise)]), HeldRows([(many, many @ weights)])
    errors = []
    for ridge in (1e-9, 1e-3):
        fit = fit_rectified(fitted, held_out, weights, None, ridge=ridge, iterations=0)
        errors.append(fit.refit)
    assert errors[1] < errors[0]


def test_unfitted_weights_stay_where_no_fit_is_better():
    p, y, plain = rows_of(1)
    whole = torch.cat([p, p], dim=1)
    held_out = HeldRows([(whole, whole @ torch.cat([plain, plain]))])
    fit = fit_rectified(HeldRows([(whole, -y)]), held_out, torch.cat([plain, plain]), None, ridge=1e-3, iterations=0)
    assert fit.plain < fit.refit
    assert torch.equal(fit.weights, torch.cat([plain, plain]))


def test_rows_beyond_memory_are_thinned_out(monkeypatch):
    p, y, _ = rows_of(0)
    monkeypatch.setattr(rectified_fit, "_MOST_ROW_BYTES", 100 * 8 * 4)
    rows = HeldRows([(p[start : start + 50], y[start : start + 50]) for start in range(0, 400, 50)])
    assert 50 <= rows.count <= 100
    torch.testing.assert_close(rows.p_mean, sum(p.sum(0) for p, _ in rows.chunks).double() / rows.count)


def test_rows_that_are_left_are_of_every_place(monkeypatch):
    """A map of 6 x 4 places per clip: each fourth row would be of one mel bin only."""
    place = (torch.arange(24 * 50) % 4).double()[:, None]
    monkeypatch.setattr(rectified_fit, "_MOST_ROW_BYTES", 400 * 2 * 4)
    rows = HeldRows([(place, place), (place, place)])
    left = torch.cat([p for p, _ in rows.chunks])[:, 0].long()
    assert len(left) <= 400
    assert bool((torch.bincount(left, minlength=4) > 50).all())


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("Cnn14", {"fc_audioset"}),
        ("LeeNet11", {"fc_audioset"}),
        ("YAMNet", {"fc_audioset"}),
    ],
)
def test_every_layer_but_the_classifier_is_before_a_relu(name, linear):
    model = build_model(ZOO[name].scaled(1 / 16), num_classes=5)
    layers = {n for n, module in model.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)}
    assert layers - rectified_layers(model) == linear


def test_what_is_added_to_a_residual_stream_is_not_before_a_relu():
    rectified = rectified_layers(build_model(ZOO["ResNet22"].scaled(1 / 16), num_classes=5))
    assert "resnet.layer1.0.conv1" in rectified
    assert "resnet.layer1.0.conv2" not in rectified


@pytest.mark.parametrize("name", ["Cnn6", "YAMNet", "ResNet22"])
def test_a_rectified_refit_comes_nearer_to_the_unpruned_network(name):
    torch.manual_seed(0)
    dense = build_model(ZOO[name].scaled(1 / 8), num_classes=5).eval()
    clips = [torch.rand(16, 32_000, generator=torch.Generator().manual_seed(seed)) - 0.5 for seed in (1, 2)]
    distances = []
    for rectify in (None, 4):
        pruned, plan = prune(dense, criterion="random", ratio=0.3)
        if rectify is not None:
            refit = refit_readers(pruned, dense, plan, clips, rectify=rectify)
            assert all(error.refit >= 0 and error.plain >= 0 for error in refit.errors)
            assert pruned.provenance.recipe[-1].settings["rectify"] == rectify
        with torch.no_grad():
            ours, theirs = (model(clips[0])["embedding"] for model in (pruned, dense))
        distances.append(float((ours[:, : theirs.shape[1]] - theirs[:, : ours.shape[1]]).norm()))
    if name != "YAMNet":  # whose embedding loses channels
        assert distances[1] < distances[0]


def test_a_network_that_overflows_is_refused():
    dense = build_model(ZOO["Cnn6"].scaled(1 / 8), num_classes=5).eval()
    with torch.no_grad():
        dense.conv_block2.conv1.weight.fill_(1e38)
    pruned, plan = prune(dense, ratio=0.5)
    with pytest.raises(PruningError, match=r"look for bad clips or weights"):
        refit_readers(pruned, dense, plan, [torch.rand(4, 32_000)], rectify=2)
