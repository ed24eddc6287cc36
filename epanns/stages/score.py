"""A checkpoint that was scored by itself, as a run record that reports can read."""

import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from epanns.atomic import sha256_of_json
from epanns.complexity.macs import profile
from epanns.data.dataset import PackDataset
from epanns.data.pack_format import PACK_FILE, read_pack_info
from epanns.evaluation.predict import Predictions
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.scores import Scores
from epanns.labels import DECISIVE_SCORES
from epanns.models.provenance import Operation
from epanns.models.pruning_plan import PruningPlan
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.models.zoo import ZOO
from epanns.packages import versions
from epanns.records import DECISIVE_PACKAGES, RunRecord, Stage

# Of a step of the recipe: which network it began with or learned from, and how well it went.
_OUTCOMES = frozenset(
    {
        *("step", "parent_sha256", "teacher_sha256", "best_step", "transfer"),
        *(f"validation_{score}" for score in DECISIVE_SCORES.values()),
    }
)


def record_of_checkpoint(
    model: Tagger,
    dataset: PackDataset,
    predictions: Predictions,
    scores: Scores,
    protocol: EvaluationProtocol,
    *,
    name: str,
    seconds: float,
) -> RunRecord:
    """Return the record of one evaluation.

    What was pruned comes from the plan in the checkpoint or, without one (released files), from comparing its widths
    with those of its row in the zoo; the criterion is then ``unknown``. Recovery, fine-tuning (since the last pruning)
    and seed come from the recipe.

    Args:
        model: The network, as loaded.
        dataset: Clips it was scored on.
        predictions: Its scores of each clip.
        scores: How well they fit.
        protocol: How they were heard.
        name: Name of the checkpoint, for people.
        seconds: Wall-clock time of the evaluation.
    """
    provenance = model.provenance
    plan, steps, since = provenance.plan, provenance.recipe, provenance.since_pruning
    trainings = [done.settings["training"] for done in since if "training" in done.settings]
    base = unpruned_spec(model.spec, plan, provenance.width)
    layers = tuple(layer for layer, width in model.spec.widths.items() if width < base.widths[layer])
    heard = heard_seconds(dataset, protocol, predictions)
    split = split_of(dataset)
    identity = {
        "kind": "evaluated",
        "checkpoint": f"{name}@{str(provenance.sha256)[:12]}",
        "packs": dataset.digest,
        "split": split,
        "protocol": protocol.describe(),
    }
    return RunRecord(
        trial_id=sha256_of_json(identity)[:12],
        experiment="evaluate",
        model=model.spec.name,
        width=recorded_width(model, base),
        criterion=None if not layers else "unknown" if plan is None else plan.criterion,
        layers=layers,
        ratio=_common_ratio(model.spec, base, layers, plan),
        recover="+".join(done.settings["method"] for done in since if done.kind == "recover") or "none",
        finetune_iterations=sum(training["iterations"] for training in trainings),
        seed=_seed_of(steps),
        dataset=dataset.dataset_name,
        protocol=protocol.describe(),
        clip_seconds=heard,
        config={**identity, "recipe": _settings_of(steps)},
        plan_digest=None if plan is None else plan.digest,
        cost_before=profile(base, seconds=heard).summary(),
        cost_after=profile(model, seconds=heard).summary(),
        stages=(Stage("evaluated", {split: scores.summary()}, 0.0, best_step=_kept_step(steps)),),
        device=device_of(model),
        versions=versions(*DECISIVE_PACKAGES),
        seconds=round(seconds, 3),
        network=weights_digest(model),
        intervals={split: intervals} if (intervals := scores.intervals()) else {},
    )


def heard_seconds(dataset: PackDataset, protocol: EvaluationProtocol, predictions: Predictions) -> float:
    """Return the length of what a network heard at once: of a window, of a packed clip, or of a clip on average."""
    if protocol.own_length:  # multiply-adds grow with the length
        return round(predictions.mean_samples / dataset.sample_rate, 3)
    return dataset.clip_seconds if protocol.window is None else protocol.window


def split_of(dataset: PackDataset) -> str:
    """Return the names of the splits that were scored; of a pack that does not say, the name of its file."""
    splits = {
        split
        for path in (source.path for source in dataset.sources)
        for split in (read_pack_info(path).splits if (path / PACK_FILE).exists() else (path.stem,))
    }
    return "+".join(sorted(splits)) or "all"


def _settings_of(steps: Sequence[Operation]) -> dict[str, dict[str, Any]]:
    """Return what was asked of each step, so that reports can tell recipes apart; what came of it is left out.

    Of a transfer it is how many classes kept their weights and how many are new: their names would fill a table.
    """
    return {
        f"{number}_{step.kind}": {
            key: len(value) if step.kind == "transfer" else value
            for key, value in step.settings.items()
            if key not in _OUTCOMES
        }
        for number, step in enumerate(steps, start=1)
    }


def _seed_of(steps: Sequence[Operation]) -> int:
    """Return the seed of the last training or, where nothing was trained by us, of the last pruning."""
    trained = [step.settings["training"]["seed"] for step in steps if "training" in step.settings]
    pruned = [step.settings["seed"] for step in steps if step.kind == "prune"]
    return int((trained or pruned or [0])[-1])


def _kept_step(steps: Sequence[Operation]) -> int | None:
    """Return the step whose weights the last training kept; None where that is unknown or something came after it."""
    found = steps[-1].settings.get("best_step") if steps and "training" in steps[-1].settings else None
    return found if type(found) is int else None


def unpruned_spec(spec: ModelSpec, plan: PruningPlan | None, width: float | None = None) -> ModelSpec:
    """Return the network before pruning: the plan's base, or else the zoo's row at `width`, or as narrow as may be."""
    if plan is not None:
        return plan.base.with_num_classes(spec.num_classes)
    published = ZOO.get(spec.name)
    if published is None or set(published.widths) != set(spec.widths):
        return spec
    return spec.with_widths(published.scaled(width_of(spec) if width is None else width).widths)


def recorded_width(model: Tagger, base: ModelSpec) -> float:
    """Return the width a network was asked for or, where its checkpoint does not say, the one its base looks like."""
    asked = model.provenance.width
    return round(width_of(base), 4) if asked is None else float(asked)


def width_of(spec: ModelSpec) -> float:
    """Return a network's width as a factor on its row of the zoo; 1 where it has no row.

    If no factor gives all its layers, some have been pruned, and the least pruned one tells.
    """
    published = ZOO.get(spec.name)
    if published is None or set(published.widths) != set(spec.widths):
        return 1.0
    factors = [width / published.widths[layer] for layer, width in spec.widths.items()]
    candidates = [*(float(f"{factor:.3g}") for factor in factors), *factors]  # people choose short numbers
    exact = [factor for factor in candidates if published.scaled(factor).widths == spec.widths]
    return exact[0] if exact else max(factors)


def _common_ratio(spec: ModelSpec, base: ModelSpec, layers: tuple[str, ...], plan: PruningPlan | None) -> float | None:
    """Return the ratio if it is one for all pruned layers."""
    ratios = set(plan.ratios.values()) if plan else {1 - spec.widths[layer] / base.widths[layer] for layer in layers}
    return float(ratios.pop()) if len(ratios) == 1 else None


def device_of(model: nn.Module) -> str:
    """Return the device of a network and what computes there, such as ``cpu (x86_64, 2 threads)``."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
