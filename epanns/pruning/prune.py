"""From a network and a ratio to a smaller network and the plan that says what went."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan, compose
from epanns.models.tagger import Tagger
from epanns.models.tensors import shape_difference
from epanns.pruning.allocation import layers_within, ratio_per_layer, remaining_width, select_layers
from epanns.pruning.budgets.allocators import Allocator, allocator_named
from epanns.pruning.budgets.allotment import Allotment, Sharing, allot, refuse_table_of_another
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.latency_budget import allot_latency
from epanns.pruning.engine import channel_groups, remove_channels
from epanns.pruning.ranking.calibration import CalibrationBatch
from epanns.pruning.ranking.criteria import criterion_named, most_important
from epanns.pruning.ranking.importance import channel_importance


def prune(  # noqa: PLR0913 - one keyword for each thing that can be asked
    model: Tagger,
    *,
    criterion: str = "l1",
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    layers: Sequence[str] | None = None,
    allocate: str | Allocator = "uniform",
    seed: int = 0,
    round_to: int = 1,
    calibration: Iterable[CalibrationBatch] | None = None,
) -> tuple[Tagger, PruningPlan]:
    """Remove the least important filters of a network.

    Filters are ranked on the unpruned weights; the readers of a removed channel lose it too. How the channels of a
    residual stream, which several layers make, are ranked says `ranking.importance.channel_importance`.

    Args:
        model: The network; not touched. Frozen networks, any mode and any device are fine.
        criterion: Name in `pruning.ranking.criteria.CRITERIA`.
        ratio: Fraction of channels removed, in (0, 1): from each layer, which without `layers` keeps at least one
            channel, or with `allocate` from all together.
        ratios: Instead of `ratio`, a fraction per layer or block, in [0, 1), at least one above 0; layers not named are
            left alone.
        budget: Instead of `ratio`, the most that the smaller network may cost, such as ``Budget("macs", 0.25)``.
        layers: With `ratio` or `budget`: names of layers or blocks; every convolution by default.
        allocate: How a budget or `ratio` is shared out over the layers: ``uniform``, ``global``, or an allocator of
            `pruning.allocators`.
        seed: For criteria that draw numbers.
        round_to: Pruned layers get a multiple of this many channels.
        calibration: For criteria that measure clips (``NEEDS`` in `pruning.ranking.criteria`): batches of waveforms
            ``(batch, samples)`` float in [-1, 1], for ``taylor`` pairs of waveforms and targets ``(batch, classes)``.

    Returns:
        The smaller network, in the same modes, with the same ``requires_grad`` flags, labels and provenance, and the
        plan. Where `model` has itself been pruned and its provenance holds that plan, the plan returned is the whole
        way from the unpruned network, in its channel numbers. Optimizers made for `model` do not fit what is returned.

    Raises:
        PruningError: If a ratio, layer or criterion cannot be used, a layer would lose nothing or everything, or the
            network cannot be pruned as it is (compiled, wrapped for several devices, shared parameters).
    """
    plan, allotment = planned(
        model,
        criterion=criterion,
        ratio=ratio,
        ratios=ratios,
        budget=budget,
        layers=layers,
        allocate=allocate,
        seed=seed,
        round_to=round_to,
        calibration=calibration,
    )
    pruned = apply_plan(model, plan)
    if allotment is not None:
        pruned.provenance = allotment.recorded(pruned.provenance)
    return pruned, _since_unpruned(model, plan)


def planned(
    model: Tagger,
    *,
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    allocate: str | Allocator = "uniform",
    **shared: Any,
) -> tuple[PruningPlan, Allotment | None]:
    """Decide what `prune` would remove, and, where that is shared out under a budget, what the network would cost.

    Arguments and errors as in `prune`.
    """
    if (ratio is None) + (ratios is None) + (budget is None) != 2:
        raise PruningError("give one of ratio, ratios and budget")
    rule = allocate if isinstance(allocate, str) else allocate.name
    if ratios is not None and rule != "uniform":
        raise PruningError(f"allocate={rule!r} goes with one ratio or a budget, not with ratios per layer")
    if ratio is not None and rule != "uniform":
        budget = Budget.left_by(ratio)
    if budget is None:
        return plan_pruning(model, ratio=ratio, ratios=ratios, **shared), None
    return plan_within(model, budget, allocate=allocate, **shared)


def plan_pruning(  # noqa: PLR0913 - as `prune`
    model: Tagger,
    *,
    criterion: str = "l1",
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    round_to: int = 1,
    calibration: Iterable[CalibrationBatch] | None = None,
) -> PruningPlan:
    """Decide what would go, without surgery, in the channel numbers of `model`; arguments and errors as in `prune`."""
    _refuse_unprunable(model)
    criterion_named(criterion)
    asked = _asked_ratios(model, ratio, ratios, layers)
    widths = _widths_left_by(model, asked, round_to=round_to, by_name=bool(layers or ratios))
    importance = channel_importance(model, tuple(asked), criterion=criterion, seed=seed, calibration=calibration)
    kept = {layer: most_important(importance[layer], width, layer=layer) for layer, width in widths.items()}
    return PruningPlan(base=model.spec, kept_channels=kept, criterion=criterion, ratios=asked, seed=seed)


def widths_after(
    model: Tagger,
    *,
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    layers: Sequence[str] | None = None,
) -> dict[str, int]:
    """Return layer -> channels that `prune` would leave, from the network's shape alone.

    No channel is ranked and no weight is read, so the network may be on the meta device.

    Args:
        model: The network; not touched.
        ratio: As in `prune`.
        ratios: As in `prune`.
        budget: As in `prune`, of any kind but latency; shared out by ``uniform``.
        layers: As in `prune`.

    Raises:
        PruningError: Wherever `prune` would refuse these arguments.
    """
    if budget is None:
        asked = _asked_ratios(model, ratio, ratios, layers)
        return _widths_left_by(model, asked, by_name=bool(layers or ratios))
    chosen = model.layer_names if layers is None else select_layers(layers, **_names(model, layers))
    sharing = Sharing(layers=chosen, allocator=allocator_named("uniform"), round_to=1, importance=_unranked)
    return dict(allot(model.spec, budget, sharing).widths)


def _unranked(layer: str) -> Tensor:
    raise AssertionError(f"{layer}: a uniform share needs no importance")


def _widths_left_by(
    model: Tagger, asked: Mapping[str, float], *, round_to: int = 1, by_name: bool = True
) -> dict[str, int]:
    """Return layer -> channels that ratios leave; without `by_name` the narrowest layers may lose none, or keep one."""
    if not any(asked.values()):
        raise PruningError(f"ratio 0 removes nothing from {', '.join(asked)}: give a ratio above 0")
    widths = {
        layer: remaining_width(model.spec.widths[layer], ratio, round_to=round_to, exact=by_name, layer=layer)
        for layer, ratio in asked.items()
    }
    if all(width == model.spec.widths[layer] for layer, width in widths.items()):
        raise PruningError(
            f"ratio {max(asked.values())} removes no channel of any layer of this {model.spec.name}, the widest of "
            f"which has {max(model.spec.widths.values())} (round_to={round_to}): raise the ratio or lower round_to"
        )
    return widths


def plan_within(  # noqa: PLR0913 - as `prune`
    model: Tagger,
    budget: Budget,
    *,
    criterion: str = "l1",
    layers: Sequence[str] | None = None,
    allocate: str | Allocator = "uniform",
    seed: int = 0,
    round_to: int = 1,
    calibration: Iterable[CalibrationBatch] | None = None,
) -> tuple[PruningPlan, Allotment]:
    """Decide what would go so that the network meets a budget, and say what it would then cost.

    Arguments and errors as in `prune`, and `allotment.allot`. The plan's ratios are the fractions that go.
    """
    _refuse_unprunable(model)
    chosen = model.layer_names if layers is None else select_layers(layers, **_names(model, layers))

    @functools.cache  # asked for once, and not before the budget is known to be within reach
    def importance() -> dict[str, Tensor]:
        return channel_importance(model, chosen, criterion=criterion, seed=seed, calibration=calibration)

    def kept_of(widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        return {layer: most_important(importance()[layer], width, layer=layer) for layer, width in widths.items()}

    sharing = Sharing(
        layers=chosen,
        allocator=allocator_named(allocate) if isinstance(allocate, str) else allocate,
        round_to=round_to,
        importance=lambda layer: importance()[layer],
    )
    refuse_table_of_another(model, sharing.allocator)
    if budget.kind == "latency":
        allotment = allot_latency(model, budget, sharing, lambda widths: remove_channels(model, kept_of(widths)))
    else:
        allotment = allot(model.spec, budget, sharing)
    kept = kept_of(allotment.widths)
    ratios = {layer: 1 - len(channels) / model.spec.widths[layer] for layer, channels in kept.items()}
    return PruningPlan(model.spec, kept, criterion, ratios, seed), allotment


def apply_plan(model: Tagger, plan: PruningPlan) -> Tagger:
    """Return `model` without the channels that `plan` drops; `model` is not touched.

    The network must have the layer widths of the plan's base; its head may be another one, for other classes. The
    provenance of what is returned holds the plan, joined to the one of `model`, and the step in its recipe.

    Raises:
        PruningError: If the widths differ, or the network cannot be pruned as it is.
    """
    _refuse_unprunable(model)
    for layer in model.spec.widths.keys() | plan.base.widths.keys():
        stated, actual = plan.base.widths.get(layer), model.spec.widths.get(layer)
        if stated != actual:
            raise PruningError(
                f"the plan was made for {layer} of width {stated}, this network has {actual}: apply it to its base"
            )
    pruned = remove_channels(model, plan.kept_channels)
    whole = _since_unpruned(model, plan)
    settings = {"criterion": plan.criterion, "ratios": dict(plan.ratios), "seed": plan.seed}
    pruned.provenance = replace(model.provenance, plan=whole).with_operation("prune", **settings)
    return pruned


def _since_unpruned(model: Tagger, plan: PruningPlan) -> PruningPlan:
    """Return `plan` joined to the plan that made `model`, where that is known."""
    before = model.provenance.plan
    return plan if before is None or before.widths != dict(plan.base.widths) else compose(before, plan)


def _asked_ratios(
    model: Tagger, ratio: float | None, ratios: Mapping[str, float] | None, layers: Sequence[str] | None
) -> dict[str, float]:
    names = _names(model, layers if ratios is None else ratios)
    if ratio is not None and ratios is None:
        chosen = model.layer_names if layers is None else select_layers(layers, **names)
        return ratio_per_layer(dict.fromkeys(chosen, ratio), **names)
    if ratios is not None and ratio is None:
        if layers is not None:
            raise PruningError("layers goes with one ratio; ratios per layer name their layers themselves")
        return ratio_per_layer(ratios, **names)
    raise PruningError("give either one ratio or ratios per layer, and not both")


def _names(model: Tagger, asked: Iterable[str] | None) -> dict[str, Any]:
    """Return what layers may be named, and, where one that is asked for may not, what says why."""
    is_wrong = any(not layers_within(name, model.layer_names) for name in asked or ())
    return {"prunable": model.layer_names, "protected": _protected(model) if is_wrong else {}}


def _protected(model: Tagger) -> dict[str, str]:
    """Return every module that somebody might name and that has no width of its own, with the reason."""
    reasons = {name: "it is the classifier, its outputs are the classes" for name in model.classifier_names}
    reasons |= model.fixed_layers
    for lead, group in channel_groups(model).items():
        for layer in (*group.producers, *group.depthwise):
            reasons.setdefault(layer, f"its channels are those of {lead}, so name that")
        for norm in group.norms:
            reasons.setdefault(norm, f"a batch norm shrinks with its convolution, so name {lead}")
        if any(reader.name == "fc1" for reader in group.readers):
            reasons["fc1"] = f"its outputs are the embedding; its inputs shrink when {lead} is pruned"
    return reasons


def _refuse_unprunable(model: nn.Module) -> None:
    """Refuse what would be pruned silently wrong: see each message."""
    if any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules()):
        raise PruningError("the network is compiled: prune the one given to torch.compile, then compile the result")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise PruningError(f"the network is wrapped in {type(model).__name__}: prune its .module, then wrap the result")
    if not isinstance(model, Tagger):
        raise PruningError(f"{type(model).__name__} is no network of epanns: use epanns.load or epanns.build_model")
    first_name: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first_name.setdefault(id(parameter), name)
        if other != name:
            raise PruningError(f"{other} and {name} share one parameter, which surgery would part: untie them first")
    if problem := shape_difference(model, model.spec):
        raise PruningError(f"this {model.spec.name} is not what its spec says, so it cannot be pruned: {problem}")
