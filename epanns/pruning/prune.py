"""Pruning in one round: from a network and a `PruningConfig` to a plan and the smaller network."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan, compose
from epanns.models.tagger import Tagger
from epanns.models.tensors import shape_difference
from epanns.pruning.budgets.allocators import refuse_other_table
from epanns.pruning.budgets.latency_budget import widths_for_latency
from epanns.pruning.budgets.widths_for_budget import Allocation, BudgetResult, widths_for_budget
from epanns.pruning.calibration_clips import ClipSource
from epanns.pruning.config import PruningConfig, PruningKeywords, layers_within, ratio_per_layer, select_layers
from epanns.pruning.ranking.criteria import most_important
from epanns.pruning.ranking.importance import channel_importance
from epanns.pruning.rounding import remaining_width
from epanns.pruning.surgery import channel_groups, remove_channels


def prune(
    model: Tagger,
    config: PruningConfig | None = None,
    clips: ClipSource | None = None,
    *,
    calibration: ClipSource | None = None,
    **keywords: Unpack[PruningKeywords],
) -> tuple[Tagger, PruningPlan]:
    """Remove the least important filters of a network.

    Filters are ranked on the unpruned weights, and the readers of a removed channel lose it too. In a residual stream
    several layers compute a channel; `epanns.pruning.ranking.importance.channel_importance` combines their scores.

    Args:
        model: The network; not touched. It may be frozen, in any mode and on any device.
        config: The settings; by default made of `keywords`.
        clips: Calibration clips for criteria that measure clips (`epanns.pruning.ranking.criteria.NEEDS`): batches of
            waveforms ``(batch, samples)`` float in [-1, 1], for ``taylor`` pairs of waveforms and targets ``(batch,
            classes)``.
        calibration: Another name for `clips`.
        **keywords: Instead of `config`: ``ratio``, ``ratios`` or ``budget`` as in `Amount`, and ``criterion``,
            ``layers``, ``allocate``, ``round_to`` and ``seed`` as in `PruningConfig`. Without ``layers``, one ratio
            leaves at least one channel in each layer.

    Returns:
        The smaller network, in the same modes, with the same ``requires_grad`` flags, labels and provenance, and the
        plan. If `model` was pruned before and its provenance holds that plan, the returned plan starts from the
        unpruned network, in its channel numbers. Optimizers made for `model` do not fit the smaller network.

    Raises:
        PruningError: If a ratio, layer or criterion cannot be used, a layer would lose no or every channel, or the
            network cannot be pruned as it is (compiled, wrapped for several devices, shared parameters); if both a
            config and keywords are given, or both `clips` and `calibration`.
    """
    if config is not None and keywords:
        raise PruningError(f"config and {', '.join(keywords)}: give either a config or keywords")
    if clips is not None and calibration is not None:
        raise PruningError("clips and calibration are the same setting: give one of them")
    config = PruningConfig.of(**keywords) if config is None else config
    _refuse_unprunable(model)
    plan_, reached = _plan(model, config, calibration if clips is None else clips)
    pruned = without_channels(model, plan_)
    if reached is not None:
        pruned.provenance = reached.recorded(pruned.provenance)
    return pruned, _since_unpruned(model, plan_)


def plan(model: Tagger, config: PruningConfig, clips: ClipSource | None = None) -> PruningPlan:
    """Choose the channels to keep, without surgery, in the channel numbers of `model`; arguments as in `prune`."""
    return plan_and_cost(model, config, clips)[0]


def plan_pruning(
    model: Tagger, *, calibration: ClipSource | None = None, **keywords: Unpack[PruningKeywords]
) -> PruningPlan:
    """Return the plan of keywords, which are those of `prune`."""
    return plan(model, PruningConfig.of(**keywords), calibration)


def plan_and_cost(
    model: Tagger, config: PruningConfig, clips: ClipSource | None = None
) -> tuple[PruningPlan, BudgetResult | None]:
    """Return the plan, and, where the config has a budget, what the pruned network costs; arguments as in `prune`."""
    _refuse_unprunable(model)
    return _plan(model, config, clips)


def _plan(model: Tagger, config: PruningConfig, clips: ClipSource | None) -> tuple[PruningPlan, BudgetResult | None]:
    spec, budget = model.spec, config.budget
    ratios = _ratios_of(model, config) if budget is None else {}
    layers = _layers_of(model, config) if budget is not None else tuple(ratios)

    @functools.cache  # ranked once, and only after the widths are known to be possible
    def importance() -> dict[str, Tensor]:
        return channel_importance(model, layers, criterion=config.criterion, seed=config.seed, calibration=clips)

    def kept_of(widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        return {layer: most_important(importance()[layer], width, layer=layer) for layer, width in widths.items()}

    if budget is None:
        kept = kept_of(_widths_left_by(model, ratios, config))
        return PruningPlan(spec, kept, config.criterion, ratios, config.seed), None
    allocation = Allocation(layers, config.allocator, config.round_to, lambda layer: importance()[layer])
    refuse_other_table(model, allocation.allocator)
    if budget.kind == "latency":
        reached = widths_for_latency(model, budget, allocation, lambda widths: remove_channels(model, kept_of(widths)))
    else:
        reached = widths_for_budget(spec, budget, allocation)
    kept = kept_of(reached.widths)
    ratios = {layer: 1 - len(channels) / spec.widths[layer] for layer, channels in kept.items()}
    return PruningPlan(spec, kept, config.criterion, ratios, config.seed), reached


def widths_after(model: Tagger, config: PruningConfig) -> dict[str, int]:
    """Return layer -> channels that `prune` would leave, from the network's shape alone.

    No channel is ranked and no weight is read, so the network may be on the meta device.

    Args:
        model: The network; not touched.
        config: As in `prune`, with any budget but a latency, and the allocator ``uniform``.

    Raises:
        PruningError: Wherever `prune` would refuse the config.
    """
    if config.budget is None:
        return _widths_left_by(model, _ratios_of(model, config), config)
    # ``uniform`` reads no importance.
    allocation = Allocation(_layers_of(model, config), config.allocator, config.round_to, lambda layer: torch.empty(0))
    return dict(widths_for_budget(model.spec, config.budget, allocation).widths)


def apply_plan(model: Tagger, plan: PruningPlan) -> Tagger:
    """Return `model` without the channels that `plan` removes; `model` is not touched.

    The network must have the layer widths of the plan's base; its head may have other classes. The provenance of the
    smaller network holds the plan, joined to the one of `model`, and the operation in its recipe.

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
    return without_channels(model, plan)


def without_channels(model: Tagger, plan: PruningPlan) -> Tagger:
    """Apply a plan that was made for `model` as it is; see `apply_plan`."""
    pruned = remove_channels(model, plan.kept_channels)
    settings = {"criterion": plan.criterion, "ratios": dict(plan.ratios), "seed": plan.seed}
    provenance = replace(model.provenance, plan=_since_unpruned(model, plan))
    pruned.provenance = provenance.with_operation("prune", **settings)
    return pruned


def _since_unpruned(model: Tagger, plan: PruningPlan) -> PruningPlan:
    """Return `plan` joined to the plan that made `model`, if known."""
    before = model.provenance.plan
    return plan if before is None or before.widths != dict(plan.base.widths) else compose(before, plan)


def _ratios_of(model: Tagger, config: PruningConfig) -> dict[str, float]:
    if config.amount.ratios is not None:
        return ratio_per_layer(config.amount.ratios, **_names(model, config.amount.ratios))
    assert config.amount.ratio is not None
    return ratio_per_layer(dict.fromkeys(_layers_of(model, config), config.amount.ratio), **_names(model, ()))


def _layers_of(model: Tagger, config: PruningConfig) -> tuple[str, ...]:
    if config.layers is None:
        return model.layer_names
    return select_layers(config.layers, **_names(model, config.layers))


def _names(model: Tagger, names: Iterable[str]) -> dict[str, Any]:
    """Return the prunable layers, and, if one of `names` is not prunable, the reasons."""
    is_wrong = any(not layers_within(name, model.layer_names) for name in names)
    return {"prunable": model.layer_names, "protected": _protected(model) if is_wrong else {}}


def _protected(model: Tagger) -> dict[str, str]:
    """Return the modules that have no width of their own, with the reason."""
    reasons = {name: "it is the classifier, its outputs are the classes" for name in model.classifier_names}
    reasons |= model.fixed_layers
    for lead, group in channel_groups(model).items():
        for layer in (*group.producers, *group.depthwise, *group.gates):
            reasons.setdefault(layer, f"its channels are those of {lead}, so name that")
        for norm in group.norms:
            reasons.setdefault(norm, f"a batch norm shrinks with its convolution, so name {lead}")
        if (embedding := model.embedding_layer) in {reader.name for reader in group.readers}:
            reasons[embedding] = f"its outputs are the embedding; its inputs shrink when {lead} is pruned"
    return reasons


def _widths_left_by(model: Tagger, ratios: Mapping[str, float], config: PruningConfig) -> dict[str, int]:
    """Return layer -> width; with one ratio for all layers, the narrowest may lose no channel, or keep one."""
    if not any(ratios.values()):
        raise PruningError(f"ratio 0 removes nothing from {', '.join(ratios)}: give a ratio above 0")
    by_name, round_to = bool(config.layers or config.amount.ratios), config.round_to
    widths = {
        layer: remaining_width(model.spec.widths[layer], ratio, round_to=round_to, exact=by_name, layer=layer)
        for layer, ratio in ratios.items()
    }
    if all(width == model.spec.widths[layer] for layer, width in widths.items()):
        raise PruningError(
            f"ratio {max(ratios.values())} removes no channel of any layer of this {model.spec.name}, the widest of "
            f"which has {max(model.spec.widths.values())} (round_to={round_to}): raise the ratio or lower round_to"
        )
    return widths


def _refuse_unprunable(model: nn.Module) -> None:
    """Refuse networks that surgery would damage without an error; see each message."""
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
        raise PruningError(f"this {model.spec.name} differs from its spec, so it cannot be pruned: {problem}")
