"""Pruning in steps: a little at a time, with training between the steps where the caller trains.

Every step ranks the channels that are left, on the weights as they are then, and cuts down to that step's widths.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

from epanns.errors import PruningError, did_you_mean
from epanns.models.pruning_plan import PruningPlan, compose
from epanns.models.tagger import Tagger
from epanns.pruning.optimizers import marks_of, refuse_lost_gradients
from epanns.pruning.prune import apply_plan, plan_pruning, planned
from epanns.pruning.ranking.calibration import CalibrationBatch

SCHEDULES = ("linear", "geometric")

# Called with the network and the number of the step (from 1) that cut it; returns the network to go on with, or None
# where that is the same one, trained in place.
Between = Callable[[Tagger, int], Tagger | None]
# Called with the network a step gave, the one it was cut from, and the step's plan, before any training.
AfterCut = Callable[[Tagger, Tagger, PruningPlan], object]


def step_widths(base: int, final: int, steps: int, schedule: str = "linear") -> list[int]:
    """Return the width of a layer after each step, the last one `final`.

    ``linear`` removes the same number of channels at each step, ``geometric`` the same share of those that are left:
    after step s of n, ``round_half_even(base - w)`` channels have gone, where w is ``base - (base - final) * s / n`` or
    ``base * (final / base) ** (s / n)``. Of 128 channels to 64 in five steps: 115, 102, 90, 77, 64 and 111, 97, 84, 74,
    64.

    Args:
        base: Channels before the first step.
        final: Channels after the last one, in [1, base].
        steps: Number of steps, at least 1.
        schedule: One of `SCHEDULES`.

    Raises:
        PruningError: If the schedule is unknown or there is no step.
    """
    if schedule not in SCHEDULES:
        raise PruningError(
            f"schedule={schedule!r}{did_you_mean(schedule, SCHEDULES)}: must be {' or '.join(SCHEDULES)}"
        )
    if type(steps) is not int or steps < 1:
        raise PruningError(f"steps={steps!r}: must be a whole number of at least 1")
    gone = [_gone(Decimal(base), Decimal(final), Decimal(step) / steps, schedule) for step in range(1, steps + 1)]
    return [base - round(channels) for channels in gone]


def _gone(base: Decimal, final: Decimal, share: Decimal, schedule: str) -> Decimal:
    """Return how many channels have gone, to twelve decimals, so that what is a half is seen as one."""
    gone = (base - final) * share if schedule == "linear" else base - base * (final / base) ** share
    return gone.quantize(Decimal("1e-12"))


def prune_iteratively(
    model: Tagger, *, steps: int, schedule: str = "linear", between: Between | None = None, **options: Any
) -> tuple[Tagger, PruningPlan]:
    """Prune in steps, down to the widths that one step would give.

    Where nothing is trained in between, steps differ little from one, or not at all; see `prune_towards`.

    Args:
        model: The network; not touched.
        steps: Number of cuts, at least 1; with 1 it is `prune`.
        schedule: How the widths go down, see `step_widths`.
        between: Called after each step but the last, with the network and the step's number from 1. It may train the
            network in place, with an optimizer made there and then (one of an earlier step holds parameters that are no
            longer the network's), or return another one of the same widths.
        options: What goes, as in `prune`; a budget is met by the last step. `calibration` is gone through at each step,
            so it must be a list.

    Returns:
        The smaller network and the plan that leads to it, as in `prune`.

    Raises:
        PruningError: As in `prune`; if a step would remove nothing; if `between` changes a width, or trains with an
            optimizer of another network.
    """
    target, allotment = planned(model, **options)
    clips = options.get("calibration")
    pruned, _ = prune_towards(model, target, steps=steps, schedule=schedule, between=between, calibration=clips)
    if allotment is not None:
        pruned.provenance = allotment.recorded(pruned.provenance)
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
    calibration: Iterable[CalibrationBatch] | None = None,
) -> tuple[Tagger, PruningPlan]:
    """Prune to the widths of a plan for one step, in several.

    Without training in between, the channels kept are those of `target` where the scores of those that are left do not
    depend on those that went: always with ``bn``; with ``l1``, ``l2`` and ``cosine`` as long as no pruned layer reads
    another one, whose channels are part of its filters. ``opnorm``, ``opnorm_invariant``, ``fpgm`` and ``centrality``
    compare the filters that are there, ``random`` draws anew, criteria that measure clips hear them through the
    smaller network, and in a residual stream the scores of each layer are relative to their mean: these may keep
    others.

    Args:
        model: The network `target` was made for; not touched.
        target: Gives layers, final widths, criterion and seed; the channels are chosen anew at each step.
        steps: As in `prune_iteratively`; so are `schedule` and `between`.
        schedule: See there.
        between: See there.
        after_cut: Called after each cut, before `between`: recovery without labels.
        calibration: For criteria that measure clips, as in `plan_pruning`; gone through at each step.

    Returns:
        The smaller network, and the plan in the channel numbers of `model`.

    Raises:
        PruningError: As `prune_iteratively`.
    """
    path = widths_by_step(target, steps, schedule)
    network, whole = model, None
    for number, widths in enumerate(path, start=1):
        ratios = {layer: round(1 - width / network.spec.widths[layer], 6) for layer, width in widths.items()}
        plan = (
            target
            if steps == 1
            else plan_pruning(
                network, criterion=target.criterion, ratios=ratios, seed=target.seed, calibration=calibration
            )
        )
        before, network = network, apply_plan(network, plan)
        whole = plan if whole is None else compose(whole, plan)
        if after_cut is not None:
            after_cut(network, before, plan)
        if between is not None and number < steps:
            network = _trained(between, network, number)
    assert whole is not None
    return network, whole


def widths_by_step(target: PruningPlan, steps: int, schedule: str = "linear") -> list[dict[str, int]]:
    """Return layer -> width after each step on the way to a plan's widths; the errors are those of `prune_towards`."""
    widths = {
        layer: step_widths(target.base.widths[layer], len(kept), steps, schedule)
        for layer, kept in target.kept_channels.items()
    }
    path = [{layer: of_layer[step] for layer, of_layer in widths.items()} for step in range(steps)]
    start = {layer: target.base.widths[layer] for layer in widths}
    for number, (before, after) in enumerate(pairwise([start, *path]), start=1):
        if before == after:
            most = max(start[layer] - path[-1][layer] for layer in start)
            raise PruningError(
                f"step {number} of {steps} would remove nothing, as at most {most} channels of a layer go: "
                "ask for fewer steps"
            )
    return path


def _trained(between: Between, network: Tagger, number: int) -> Tagger:
    """Return what training made of a network, which must have kept its widths; it keeps the plan too."""
    widths, plan = dict(network.spec.widths), network.provenance.plan
    before = marks_of(network)
    trained: object = between(network, number)
    trained = network if trained is None else trained
    if not isinstance(trained, Tagger):
        raise PruningError(
            f"after step {number} `between` returned a {type(trained).__name__}: return the network that was trained, "
            "not compiled or wrapped, or None where it is the one given"
        )
    refuse_lost_gradients(network, before, when=f"after step {number}")
    for layer, width in widths.items():
        if (found := trained.spec.widths.get(layer)) != width:
            raise PruningError(f"after step {number} {layer} was {found} wide, not {width}: train, but do not prune")
    trained.provenance = replace(trained.provenance, plan=plan)
    return trained
