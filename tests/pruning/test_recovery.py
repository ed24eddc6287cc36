import re

import pytest
import torch

from epanns.errors import PruningError
from epanns.models.recipe import steps_of
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery import RECOVERIES, recover


def calibration():
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(6, 80 * 70, generator=generator) - 0.5 for _ in range(2)]


@pytest.mark.parametrize("method", [*RECOVERIES, "distil:2"])
def test_every_recovery_does_its_steps_and_says_so(build, method):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5, layers=["conv_block3"])
    pruned = apply_plan(dense, plan)
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    report = recover(method, pruned, dense, plan, calibration)
    steps = [step["method"] for step in steps_of(pruned.provenance)[1:]]
    expected = {"none": [], "distil:2": ["ls", "distil"]}
    assert steps == expected.get(method, method.split("+"))
    changed = {name for name, value in pruned.state_dict().items() if not torch.equal(value, before[name])}
    assert ("conv_block4.conv1.weight" in changed) == ("ls" in steps)
    assert ("conv_block4.bn1.num_batches_tracked" in changed) == ("bn" in steps)
    if method == "none":
        assert report is None
    else:
        assert (report["method"], report["clips"]) == (method, 12)
        assert ("errors" in report) == ("ls" in steps)
        assert ("distil" in report) == ("distil" in steps)


@pytest.mark.parametrize("method", ["ls+b", "distil", "distil:0", "distil:-1", "distil:2.5", "ls+distil:5"])
def test_an_unknown_recovery_is_refused(build, method):
    dense = build()
    plan = plan_pruning(dense, ratio=0.5)
    message = rf"recover='{re.escape(method)}'.*: must be none, bn, ls, ls\+bn or distil:STEPS"
    with pytest.raises(PruningError, match=message):
        recover(method, apply_plan(dense, plan), dense, plan, calibration)
