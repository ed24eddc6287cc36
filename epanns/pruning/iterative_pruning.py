"""Iterative pruning: several rounds that each remove a few channels, with training or recovery between them.

Every round ranks the channels that are left, on the weights as they are then, and prunes to the round's widths.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

from epanns.errors import PruningError, did_you_mean
from epanns.models.pruning_plan import PruningPlan, compose
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import ClipSource
from epanns.pruning.config import PruningConfig
from epanns.pruning.prune import (
    apply_plan,
    plan_and_cost,
    plan_pruning,
    refuse_lost_gradients,
    weight_marks,
    without_channels,
)

SCHEDULES = ("linear", "geometric")

# Called with the network and the number of the round (from 1) that pruned it; returns the network for the next round,
# or None if it is the same one, trained in place.
Between = Callable[[Tagger, int], Tagger | None]
# Called with the network of a round, the one it was pruned from, the round's plan, and the plan of all rounds so far,
# before any training.
AfterCut = Callable[[Tagger, Tagger, PruningPlan, PruningPlan], object]


def step_widths(base: int, final: int, steps: int, schedule: str = "linear") -> list[int]:
    """Return the width of a layer after each round, the last one `final`.

    ``linear`` removes the same number of channels in each round, ``geometric`` the same fraction of the channels left:
    after round s of n, ``round_half_even(base - w)`` channels are removed, where w is ``base - (base - final) * s / n``
    or ``base * (final / base) ** (s / n)``. Of 128 channels to 64 in five rounds: 115, 102, 90, 77, 64 and 111, 97, 84,
    74, 64.

    Args:
        base: Channels before the first round.
        final: Channels after the last round, in [1, base].
        steps: Number of rounds, at least 1.
        schedule: One of `SCHEDULES`.

    Raises:
        PruningError: If the schedule is unknown or there is no round.
    """
    if schedule not in SCHEDULES:
        raise PruningError(
            f"schedule={schedule!r}{did_you_mean(schedule, SCHEDULES)}: must be {' or '.join(SCHEDULES)}"
        )
    if type(steps) is not int or steps < 1:
        raise PruningError(f"steps={steps!r}: must be a whole number of at least 1")
    widths = []
    for number in range(1, steps + 1):
        share = Decimal(number) / steps
        left = Decimal(base) * (Decimal(final) / base) ** share
        removed = (Decimal(base) - final) * share if schedule == "linear" else base - left
        widths.append(base - round(removed.quantize(Decimal("1e-12"))))  # twelve decimals, so that halves are exact
    return widths


def prune_iteratively(
    model: Tagger, *, steps: int, schedule: str = "linear", between: Between | None = None, **options: Any
) -> tuple[Tagger, PruningPlan]:
    """Prune in several rounds, to the widths that one round would give.

    Without training or recovery between the rounds, the result differs little from one round, or not at all; see
    `prune_towards`.

    Args:
        model: The network; not touched.
        steps: Number of rounds, at least 1; with 1 it is `prune`.
        schedule: How the widths decrease, see `step_widths`.
        between: Called after each round but the last, with the network and the round's number from 1. It may train the
            network in place, with an optimizer made for it (the parameters of an earlier round's optimizer are no
            longer the network's), or return another network of the same widths.
        options: The keywords of `prune`; a budget is met by the last round. `calibration` is read in each round, so it
            must be a list.

    Returns:
        The smaller network and the plan that leads to it, as in `prune`.

    Raises:
        PruningError: As in `prune`; if a round would remove nothing; if `between` changes a width, or trains with an
            optimizer of another network.
    """
    clips = options.pop("calibration", None)
    target, reached = plan_and_cost(model, PruningConfig.of(**options), clips)
    pruned, _ = prune_towards(model, target, steps=steps, schedule=schedule, between=between, calibration=clips)
    if reached is not None:
        pruned.provenance = reached.recorded(pruned.provenance)
    assert pruned.provenance.plan is not None
    return pruned, pruned.provenance.plan


def prune_towards(
    model: Tagger,
    target: PruningPlan,
    *,
    steps: int,
    schedule: str = "linear",
    between: Between | None = None,
    after_cut: AfterCut | None = None,
    calibration: ClipSource | None = None,
) -> tuple[Tagger, PruningPlan]:
    """Prune to the widths of a plan for one round, in several rounds.

    Without training or recovery between the rounds, the kept channels are those of `target` if the scores of the
    remaining channels do not depend on the removed ones: with ``bn`` outside gates; with ``l1``, ``l2`` and ``cosine``
    if no pruned layer reads another pruned layer, whose channels are part of its filters. They may differ with
    ``opnorm``, ``opnorm_invariant``, ``fpgm`` and ``centrality``, which compare the remaining filters, with ``random``,
    with criteria that measure clips, which read the outputs of the smaller network, and in a residual stream, where
    scores are relative to their mean.

    Args:
        model: The network `target` was made for; not touched.
        target: Gives layers, final widths, criterion and seed; the channels are chosen again in each round.
        steps: As in `prune_iteratively`.
        schedule: As in `prune_iteratively`.
        between: As in `prune_iteratively`.
        after_cut: Called after each round, before `between`: recovery without labels.
        calibration: For criteria that measure clips, as in `prune`; read in each round.

    Returns:
        The smaller network, and the plan in the channel numbers of `model`.

    Raises:
        PruningError: As `prune_iteratively`.
    """
    path = widths_by_step(target.base.widths, final_widths(target), steps, schedule)
    network, whole = model, None
    for number, widths in enumerate(path, start=1):
        before = network
        if steps == 1:
            plan = target
            network = apply_plan(before, plan)
        else:
            ratios = {layer: round(1 - width / before.spec.widths[layer], 6) for layer, width in widths.items()}
            plan = plan_pruning(
                before, criterion=target.criterion, ratios=ratios, seed=target.seed, calibration=calibration
            )
            network = without_channels(before, plan)
        whole = plan if whole is None else compose(whole, plan)
        if after_cut is not None:
            after_cut(network, before, plan, whole)
        if between is not None and number < steps:
            network = _trained(between, network, number)
    assert whole is not None
    return network, whole


def final_widths(plan: PruningPlan) -> dict[str, int]:
    """Return layer -> channels that a plan keeps, of the layers that it names."""
    return {layer: len(kept) for layer, kept in plan.kept_channels.items()}


def widths_by_step(
    base: Mapping[str, int], final: Mapping[str, int], steps: int, schedule: str = "linear"
) -> list[dict[str, int]]:
    """Return layer -> width after each round, for the layers of `final`; errors are those of `prune_towards`."""
    widths = {layer: step_widths(base[layer], width, steps, schedule) for layer, width in final.items()}
    path = [{layer: of_layer[index] for layer, of_layer in widths.items()} for index in range(steps)]
    start = {layer: base[layer] for layer in widths}
    for number, (before, after) in enumerate(pairwise([start, *path]), start=1):
        if before == after:
            most = max(start[layer] - path[-1][layer] for layer in start)
            raise PruningError(
                f"round {number} of {steps} would remove nothing, as at most {most} channels of a layer are removed: "
                "use fewer rounds"
            )
    return path


def _trained(between: Between, network: Tagger, number: int) -> Tagger:
    """Return the trained network, which must have kept its widths; it keeps the plan too."""
    widths, plan = dict(network.spec.widths), network.provenance.plan
    before = weight_marks(network)
    trained: object = between(network, number)
    trained = network if trained is None else trained
    if not isinstance(trained, Tagger):
        raise PruningError(
            f"after round {number} `between` returned a {type(trained).__name__}: return the network that was trained, "
            "not compiled or wrapped, or None if it is the one given"
        )
    refuse_lost_gradients(network, before, when=f"after round {number}")
    for layer, width in widths.items():
        if (found := trained.spec.widths.get(layer)) != width:
            raise PruningError(f"after round {number} {layer} was {found} wide, not {width}: train, but do not prune")
    trained.provenance = replace(trained.provenance, plan=plan)
    return trained
