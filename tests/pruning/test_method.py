"""Tests of the named pruning methods."""

import pytest

from epanns.pruning.budgets.allocators import allocator_named
from epanns.pruning.method import METHODS, method_named
from epanns.pruning.ranking.criteria import CRITERIA
from epanns.pruning.recovery.recover import RecoverySettings, parts_of, recovery_problem


@pytest.mark.parametrize("budget", [None, "params", "macs", "bytes", "latency"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_what_exists(name, budget):
    method = method_named(name, budget=budget)
    assert method.criterion in CRITERIA
    assert allocator_named(method.allocate).name == method.allocate
    assert recovery_problem(method.recover) is None
    RecoverySettings.from_dict(dict(method.recovery))


def test_auto_aligns_and_measures_distortion_where_parameters_are_the_budget():
    assert [method_named("auto", budget=kind).allocate for kind in ("macs", "params", "bytes")] == [
        "uniform",
        "distortion",
        "distortion",
    ]
    assert parts_of(method_named("auto", budget="macs").recover) == ("align",)
    assert parts_of(method_named("plain", budget="macs").recover) == ()
