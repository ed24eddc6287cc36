import pytest
import torch
from torch import nn

from epanns.errors import PruningError
from epanns.models.provenance import Operation
from epanns.models.pruning_plan import PruningPlan
from epanns.pruning.prune import prune
from epanns.pruning.recovery.batch_norm_reestimation import recalibrate_batch_norm
from tests.builders import random_waveforms

SAMPLES = 80 * 40


@pytest.fixture
def waveforms():
    return random_waveforms(3, 3, 2, samples=SAMPLES)


def norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def statistics(model):
    return {
        name: (norm.running_mean.clone(), norm.running_var.clone(), int(norm.num_batches_tracked))
        for name, norm in norms(model).items()
    }


def changed(before, after):
    return [name for name in before if not torch.equal(before[name][0], after[name][0])]


def test_statistics_become_averages_over_batches_weighted_by_clips(model, waveforms):
    """Checked on the first batch norm, whose input is the log-mel spectrogram."""
    with torch.no_grad():
        bins = [model.front_end(waveform).squeeze(1).flatten(0, 1) for waveform in waveforms]
    assert recalibrate_batch_norm(model, waveforms) == 8
    means, variances = (torch.stack([getattr(each, what)(0) for each in bins]) for what in ("mean", "var"))
    share = torch.tensor([3, 3, 2])[:, None] / 8
    torch.testing.assert_close(model.bn0.running_mean, (share * means).sum(0))
    torch.testing.assert_close(model.bn0.running_var, (share * variances).sum(0))
    assert int(model.bn0.num_batches_tracked) == 3


def test_without_a_plan_every_batch_norm_is_reestimated(model, waveforms):
    before = statistics(model)
    recalibrate_batch_norm(model, waveforms)
    assert changed(before, statistics(model)) == list(norms(model))


def test_with_a_plan_only_batch_norms_with_changed_inputs_are_reestimated(model, waveforms):
    pruned, plan = prune(model, ratio=0.5, layers=["conv_block4.conv2", "conv_block6.conv1"])
    before = statistics(pruned)
    assert recalibrate_batch_norm(pruned, waveforms, plan=plan) == 8
    after = statistics(pruned)
    assert changed(before, after) == [f"conv_block{block}.bn{conv}" for block in (5, 6) for conv in (1, 2)]
    assert before["bn0"][2] == after["bn0"][2]


def test_kept_channels_of_the_first_pruned_layer_have_the_statistics_of_the_unpruned_network(model, waveforms):
    """Therefore its own batch norm is not re-estimated."""
    pruned, plan = prune(model, ratio=0.5, layers=["conv_block4.conv1"])
    for network in (model, pruned):
        recalibrate_batch_norm(network, waveforms)
    kept = list(plan.kept_channels["conv_block4.conv1"])
    torch.testing.assert_close(pruned.conv_block4.bn1.running_mean, model.conv_block4.bn1.running_mean[kept])


def test_a_plan_without_removed_channels_changes_no_statistics(model, waveforms):
    plan = PruningPlan(model.spec, {}, "l1", {}, seed=0)
    before = statistics(model)
    assert recalibrate_batch_norm(model, waveforms, plan=plan) == 0
    assert changed(before, statistics(model)) == []
    assert model.provenance.recipe == ()


def test_the_recipe_records_the_number_of_clips(model, waveforms):
    recalibrate_batch_norm(model, waveforms)
    assert model.provenance.recipe == (Operation("recover", {"method": "bn", "clips": 8}),)


def test_weights_modes_and_momenta_are_restored(model, waveforms):
    model.train()
    model.conv_block2.eval()
    model.conv_block3.bn1.momentum = 0.3
    modes = [module.training for module in model.modules()]
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    recalibrate_batch_norm(model, waveforms)
    assert [module.training for module in model.modules()] == modes
    assert (model.conv_block3.bn1.momentum, model.conv_block1.bn1.momentum) == (0.3, 0.1)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_and_augmentation_stay_off(build, waveforms):
    results = []
    for seed in (1, 2):
        torch.manual_seed(0)
        model = build().train()
        torch.manual_seed(seed)
        recalibrate_batch_norm(model, waveforms)
        results.append(model.conv_block6.bn2.running_mean)
    assert torch.equal(*results)


def test_a_batch_norm_that_is_never_run_keeps_its_statistics(build, waveforms):
    model = build(head="decision_att")
    model.att_block.bn_att.running_mean.fill_(0.7)
    recalibrate_batch_norm(model, waveforms)
    assert model.att_block.bn_att.running_mean.tolist() == pytest.approx([0.7] * 5)


@pytest.mark.parametrize(
    ("batches", "match"),
    [
        ([], r"no calibration clip was given"),
        (
            [torch.zeros(2, SAMPLES, dtype=torch.int16)],
            r"calibration batch of type torch\.int16, shape \(2, \d+\): give floats in \[-1, 1\]",
        ),
        ([torch.rand(SAMPLES)], r"shape \(\d+,\): give floats in \[-1, 1\], \(batch, samples\)"),
        ([(torch.rand(2, SAMPLES), torch.ones(2, 5))], r"batch of type tuple: give a tensor of waveforms alone"),
        ([torch.full((2, SAMPLES), float("nan"))], r"bn0: statistics are not finite after calibration; look for bad"),
    ],
)
def test_invalid_calibration_is_refused_and_statistics_are_restored(model, waveforms, batches, match):
    before = statistics(model)
    with pytest.raises(PruningError, match=match):
        recalibrate_batch_norm(model, (waveforms if batches else []) + batches)
    after = statistics(model)
    assert all(torch.equal(a, b) for name in before for a, b in zip(before[name][:2], after[name][:2], strict=True))
    assert [tracked for *_, tracked in before.values()] == [tracked for *_, tracked in after.values()]
    assert not model.training


def test_statistics_are_restored_when_reading_the_clips_fails(model, waveforms):
    def broken():
        yield waveforms[0]
        raise KeyError("reader")

    before = statistics(model)
    with pytest.raises(KeyError):
        recalibrate_batch_norm(model, broken())
    assert changed(before, statistics(model)) == []


def test_silent_clips_are_refused_and_empty_batches_are_ignored(model, waveforms):
    before = statistics(model)
    with pytest.raises(PruningError, match=r"all 4 calibration clips are silent \(zeros\): give sound of the kind"):
        recalibrate_batch_norm(model, [torch.zeros(2, SAMPLES)] * 2)
    assert not changed(before, statistics(model))
    with pytest.raises(PruningError, match="no calibration clip was given"):
        recalibrate_batch_norm(model, [torch.rand(0, SAMPLES)])
    assert recalibrate_batch_norm(model, [torch.rand(0, SAMPLES), *waveforms]) == sum(map(len, waveforms))
