"""Pruning methods by name: criterion, allocator and recovery that go together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

METHODS = ("plain", "auto")


@dataclass(frozen=True)
class Method:
    """Settings that go together.

    Attributes:
        criterion: Name in `epanns.pruning.ranking.criteria.CRITERIA`.
        allocate: Name of an allocator.
        recover: Name of a recovery.
        recovery: Settings of ``ls``, as in `epanns.pruning.recovery.recover.RecoverySettings`, where a recovery with
            ``ls`` is chosen instead.
    """

    criterion: str
    allocate: str
    recover: str
    recovery: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def method_named(name: str, *, budget: str | None) -> Method:
    """Return a method.

    ``plain`` is the baseline: filters by their L1 norm (E-PANNs), the same ratio in every layer, no recovery. ``auto``
    is what kept most of the tags of a trained network (YAMNet) without labels: filters by `activation` at their
    readers, and gradient steps that match every layer of the unpruned network. Under a budget of parameters or bytes,
    layers are cut by measured distortion, because the layers with the most parameters are rarely those that matter most
    to the tags; under one of MACs or channels the same ratio in every layer did as well.

    Args:
        name: One of `METHODS`.
        budget: Kind of the budget, such as ``macs``; None for ratios.
    """
    if name == "plain":
        return Method("l1", "uniform", "none")
    allocate = "distortion" if budget in ("params", "bytes") else "uniform"
    return Method("activation", allocate, "align:1500", MappingProxyType({"mixtures": 2, "rectify": 8}))
