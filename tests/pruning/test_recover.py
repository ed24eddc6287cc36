import copy
import json
import re
from dataclasses import replace

import pytest
import torch

import epanns
from epanns.errors import ConfigError, PruningError
from epanns.models.provenance import Provenance
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.recover import RECOVERIES, plan_between, recover
from tests.builders import random_waveforms, same_tensors, tensors_of


def calibration():
    return random_waveforms(6, 6)


@pytest.mark.parametrize("method", [*RECOVERIES, "align:2", "ls+align:2", "distil:2"])
def test_every_recovery_changes_its_layers_and_is_recorded(build, method):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block3"])
    pruned = apply_plan(dense, plan)
    before = tensors_of(pruned)
    report = recover(pruned, dense, calibration, method, plan=plan)
    steps = [step.settings["method"] for step in pruned.provenance.recipe[1:]]
    expected = {"none": [], "distil:2": ["ls", "distil"], "align:2": ["align"], "ls+align:2": ["ls", "align"]}
    assert steps == expected.get(method, method.split("+"))
    changed = {name for name, value in pruned.state_dict().items() if not torch.equal(value, before[name])}
    assert ("conv_block4.conv1.weight" in changed) == bool({"ls", "grail", "fold"} & set(steps))
    assert ("conv_block4.bn1.num_batches_tracked" in changed) == ("bn" in steps)
    if method == "none":
        assert report is None
    else:
        assert (report["method"], report["clips"]) == (method, 12)
        assert ("errors" in report) == ("ls" in steps)
        for part in ("align", "distil"):
            assert (part in report) == (part in steps)
            if part in report:
                json.dumps(report)
                assert [step for step, _ in report[part]["curve"]] == [0, 1, 2]


@pytest.mark.parametrize(
    "method", ["ls+b", "distil", "distil:0", "distil:-1", "distil:2.5", "ls+distil:5", "align", "align:0", "bn+align:2"]
)
def test_an_unknown_recovery_is_refused(build, method):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5)
    message = (
        rf"recover='{re.escape(method)}'.*: must be none, bn, ls, ls\+bn, grail, fold, align:STEPS, ls\+align:STEPS or "
        "distil:STEPS"
    )
    with pytest.raises(PruningError, match=message):
        recover(apply_plan(dense, plan), dense, calibration, method, plan=plan)


def recovered(pruned, dense, waveforms=calibration, **options):
    """Return the tensors of a copy of the pruned network after recovery."""
    again = copy.deepcopy(pruned)
    recover(again, dense, waveforms, **options)
    return again.state_dict()


@pytest.mark.parametrize("method", ["ls", "bn"])
def test_the_plan_between_two_networks_is_found_from_their_provenance(build, method):
    dense = build()
    first, _ = epanns.prune(dense, ratio=0.5, layers=["conv_block3"])
    second, whole = epanns.prune(first, ratio=0.3, layers=["conv_block3.conv2", "conv_block5"])
    step = plan_pruning(first, ratio=0.3, layers=["conv_block3.conv2", "conv_block5"])
    assert dict(plan_between(first, second).kept_channels) == dict(step.kept_channels)
    assert dict(plan_between(dense, second).kept_channels) == dict(whole.kept_channels)
    ends = {
        source: recovered(second, network, method=method) for source, network in (("first", first), ("dense", dense))
    }
    assert same_tensors(ends["first"], recovered(second, first, method=method, plan=step))
    assert same_tensors(ends["dense"], recovered(second, dense, method=method, plan=whole))
    assert not same_tensors(ends["first"], second)
    if method == "ls":
        assert not same_tensors(ends["first"], ends["dense"])
    assert epanns.recover is recover
    assert epanns.recover(first, dense, calibration())["method"] == "ls"


def test_clips_may_be_a_list_or_a_function(build):
    dense = build()
    pruned, _ = epanns.prune(dense, ratio=0.5)
    assert same_tensors(recovered(pruned, dense), recovered(pruned, dense, calibration()))
    assert not same_tensors(recovered(pruned, dense), recovered(pruned, dense, ridge=1.0))
    for settings, match in (
        ({"rigde": 1.0}, r"recovery: unknown key 'rigde' \(did you mean 'ridge'\?\)"),
        ({"ridge": 0.0}, "recovery: ridge=0.0: must be a number above 0; 0.001 is a good value"),
        ({"ridge": float("nan")}, "recovery: ridge=nan: must be a number above 0"),
        ({"mixtures": -1}, "recovery: mixtures=-1: must be a whole number >= 0"),
        ({"fit_to": "dence"}, r"recovery: fit_to='dence' \(did you mean 'dense'\?\): must be one of dense, current"),
    ):
        with pytest.raises(ConfigError, match=match):
            recover(pruned, dense, calibration, **settings)


@pytest.mark.parametrize(
    ("waveforms", "message"),
    [
        (
            torch.zeros(4, 5600),
            "waveforms of type Tensor: they are read several times, so give a list of batches",
        ),
        (iter(calibration()), "waveforms of type list_iterator: they are read several times"),
        (
            [torch.zeros(5600)],
            r"calibration batch of type torch.float32, shape \(5600,\): give floats in \[-1, 1\], \(batch, samples\)",
        ),
    ],
)
def test_waveforms_that_cannot_be_read_several_times_are_refused(build, waveforms, message):
    dense = build()
    pruned, _ = epanns.prune(dense, ratio=0.5, layers=["conv_block3"])
    for method in ("ls", "bn", "distil:1"):
        with pytest.raises(PruningError, match=message):
            recover(pruned, dense, waveforms, method)


def test_networks_without_a_common_plan_are_refused(build):
    dense = build()
    one, plan = epanns.prune(dense, ratio=0.5, layers=["conv_block3"])
    two, _ = epanns.prune(dense, ratio=0.5, layers=["conv_block4"])
    other, _ = epanns.prune(one, ratio=0.5, layers=["conv_block4"])
    opposite, _ = epanns.prune(dense, ratios={"conv_block3": 0.1}, criterion="random", seed=3)
    untold, _ = epanns.prune(dense, ratio=0.5, layers=["conv_block3"])
    untold.provenance = Provenance()
    deaf = build(front_end=replace(dense.spec.front_end, fmin=60))
    cases = [
        (untold, dense, None, "the plan of this narrow is unknown: give plan=, the one that epanns.prune returned"),
        (one, two, None, r"keeps channel \d+, which the one it should be cut from has lost: give the network that it"),
        (opposite, one, None, r"conv_block3\.conv1: the pruned network keeps channel \d+, which"),
        (other, dense, plan, "the pruned network's widths are not the plan's: give the two that the plan connects"),
        (other, two, plan, "the dense network's widths are not the plan's: give the two that the plan connects"),
        (one, untold, None, "the dense network's widths are not the plan's"),
        (one, deaf, None, "narrow and narrow have different front ends: give the network that the pruned one"),
    ]
    for pruned, whole, given, message in cases:
        for method in ("bn", "ls"):
            with pytest.raises(PruningError, match=message):
                recover(pruned, whole, calibration, method, plan=given)
