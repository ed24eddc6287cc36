"""Pruning in one round: from a network and a `PruningConfig` to a plan and the smaller network; its optimizers."""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan, compose
from epanns.models.tagger import Tagger
from epanns.models.tensors import shape_difference
from epanns.pruning.budgets.allocators import refuse_other_table
from epanns.pruning.budgets.distortion import ByDistortion
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
    calibration: ClipSource | None = None,
    **keywords: Unpack[PruningKeywords],
) -> tuple[Tagger, PruningPlan]:
    """Remove the least important filters of a network.

    Filters are ranked on the unpruned weights, and the readers of a removed channel lose it too. In a residual stream
    several layers compute a channel; `epanns.pruning.ranking.importance.channel_importance` combines their scores.

    Args:
        model: The network; not touched. It may be frozen, in any mode and on any device.
        config: The settings; by default made of `keywords`.
        calibration: Clips for criteria that measure clips (`epanns.pruning.ranking.criteria.NEEDS`): batches of
            waveforms ``(batch, samples)`` float in [-1, 1], for ``taylor`` pairs of waveforms and targets ``(batch,
            classes)``.
        **keywords: Instead of `config`: ``ratio``, ``ratios`` or ``budget`` as in `Amount`, and ``criterion``,
            ``layers``, ``allocate``, ``round_to`` and ``seed`` as in `PruningConfig`. Without ``layers``, one ratio
            leaves at least one channel in each layer.

    Returns:
        The smaller network, in the same modes, with the same ``requires_grad`` flags, labels and provenance, and the
        plan. If `model` was pruned before and its provenance holds that plan, the returned plan starts from the
        unpruned network, in its channel numbers. Optimizers made for `model` do not fit the smaller network.

    Raises:
        PruningError: If a ratio, layer or criterion cannot be used, a layer would lose no or every channel, or the
            network cannot be pruned as it is (compiled, wrapped for several devices, shared parameters), or if both a
            config and keywords are given.
    """
    if config is not None and keywords:
        raise PruningError(f"config and {', '.join(keywords)}: give either a config or keywords")
    config = PruningConfig.of(**keywords) if config is None else config
    plan, reached = plan_and_cost(model, config, calibration)
    pruned = without_channels(model, plan)
    if reached is not None:
        pruned.provenance = reached.recorded(pruned.provenance)
    return pruned, _since_unpruned(model, plan)


def plan_pruning(
    model: Tagger, *, calibration: ClipSource | None = None, **keywords: Unpack[PruningKeywords]
) -> PruningPlan:
    """Choose the channels to keep, without surgery, in the channel numbers of `model`; keywords as in `prune`."""
    return plan_and_cost(model, PruningConfig.of(**keywords), calibration)[0]


def plan_and_cost(
    model: Tagger, config: PruningConfig, calibration: ClipSource | None = None
) -> tuple[PruningPlan, BudgetResult | None]:
    """Choose the channels to keep; return the plan and, for a budget, the cost of the pruned network, as in `prune`."""
    _refuse_unprunable(model)
    spec, budget = model.spec, config.budget
    ratios = _ratios_of(model, config) if budget is None else {}
    layers = _layers_of(model, config) if budget is not None else tuple(ratios)

    @functools.cache  # ranked once, and only after the widths are known to be possible
    def importance() -> dict[str, Tensor]:
        return channel_importance(model, layers, criterion=config.criterion, seed=config.seed, calibration=calibration)

    def kept_of(widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        return {layer: most_important(importance()[layer], width, layer=layer) for layer, width in widths.items()}

    if budget is None:
        kept = kept_of(_widths_left_by(model, ratios, config))
        return PruningPlan(spec, kept, config.criterion, ratios, config.seed), None
    allocator = config.allocator
    if isinstance(allocator, ByDistortion):
        allocator = allocator.measured(model, layers, lambda layer: importance()[layer], calibration)
    allocation = Allocation(layers, allocator, config.round_to, lambda layer: importance()[layer])
    refuse_other_table(model, allocator)
    if budget.kind == "latency":
        reached = widths_for_latency(model, budget, allocation, lambda widths: remove_channels(model, kept_of(widths)))
    else:
        reached = widths_for_budget(spec, budget, allocation)
    if isinstance(allocator, ByDistortion):
        reached = replace(reached, distortions=allocator.table)
    kept = kept_of(reached.widths)
    ratios = {layer: 1 - len(channels) / spec.widths[layer] for layer, channels in kept.items()}
    return PruningPlan(spec, kept, config.criterion, ratios, config.seed), reached


def widths_after(model: Tagger, config: PruningConfig) -> dict[str, int]:
    """Return layer -> channels that `prune` would leave, from the network's shape alone.

    The config may have any budget but a latency, and the allocator ``uniform``. No channel is ranked and no weight is
    read, so the network may be on the meta device.

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
    ratios, ratio = config.amount.ratios, config.amount.ratio
    if ratios is None:
        assert ratio is not None
        ratios = dict.fromkeys(_layers_of(model, config), ratio)
    return ratio_per_layer(ratios, prunable=model.layer_names, protected=_protected(model, ratios))


def _layers_of(model: Tagger, config: PruningConfig) -> tuple[str, ...]:
    if config.layers is None:
        return model.layer_names
    return select_layers(config.layers, prunable=model.layer_names, protected=_protected(model, config.layers))


def _protected(model: Tagger, names: Iterable[str]) -> dict[str, str]:
    """Return why modules have no width of their own; empty, without a trace, if all `names` are prunable."""
    if all(layers_within(name, model.layer_names) for name in names):
        return {}
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


def check_optimizer(optimizer: torch.optim.Optimizer, model: Tagger) -> None:
    """Refuse an optimizer that was not made for this network as it is.

    Pruning returns a network with new parameters. An optimizer of the network before keeps updating the old parameters:
    the loss does not change, and no error is raised.

    Raises:
        PruningError: If the optimizer holds a parameter that is not the network's, or lacks a trainable one.
    """
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    own = {id(weight) for weight in model.parameters()}
    lacking = [name for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in held]
    foreign = len(held - own)
    if not foreign and not lacking:
        return
    problems = [f"holds {foreign} of {len(held)} parameters that are not the network's"] if foreign else []
    problems += [f"lacks {len(lacking)} trainable ones, first {lacking[0]}"] if lacking else []
    raise PruningError(
        f"this {type(optimizer).__name__} {' and '.join(problems)}: make a new one from the parameters of this network"
    )


def weight_marks(model: Tagger) -> dict[str, tuple[int, str]]:
    """Return each parameter's version and sha256, to find out later whether it was written to.

    Torch counts the writes to a tensor as its version, but not those of fused optimizers.
    """
    marks = {}
    for name, weight in model.named_parameters():
        values = weight.detach().cpu().contiguous().reshape(-1)
        marks[name] = weight._version, hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()
    return marks


def refuse_lost_gradients(model: Tagger, before: dict[str, tuple[int, str]], *, when: str) -> None:
    """Refuse a training that computed gradients of a network and changed none of its weights.

    This happens with an optimizer of another network. `before` are the `weight_marks` before the training, when there
    were no gradients; `when` starts the message.

    Raises:
        PruningError: If there are gradients and no weight was written to.
    """
    has_gradients = any(weight.grad is not None for weight in model.parameters())
    if has_gradients and weight_marks(model) == before:
        raise PruningError(
            f"{when} gradients were computed and no weight changed: the optimizer is not this network's; "
            "make a new one after each round"
        )
