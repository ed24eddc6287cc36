"""Score a network on packs, and write the run record of a checkpoint that was scored by itself."""

import csv
import platform
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from epanns import atomic
from epanns.clip_scores import FILE as CLIP_SCORES
from epanns.clip_scores import write_clip_scores
from epanns.complexity.latency import measure_latency
from epanns.complexity.macs import profile
from epanns.data.batches.dataset import PackDataset
from epanns.data.datasets.splits import groups_to_draw
from epanns.data.packs.pack_format import PACK_FILE, read_pack_info
from epanns.evaluation.class_map import ClassMap
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import Predictions, predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.scores import Scores
from epanns.evaluation.zero_shot import zero_shot
from epanns.feedback import Progress
from epanns.labels import DECISIVE_SCORES, LabelSet
from epanns.models.pruning_plan import PruningPlan
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.models.zoo import ZOO
from epanns.packages import versions
from epanns.records import DECISIVE_PACKAGES, RunRecord, Stage
from epanns.safe_text import spreadsheet_cell

# Results of an operation, and the networks that it began with or learned from; the other keys are its settings.
_OUTCOMES = frozenset(
    {
        *("parent_sha256", "teacher_sha256", "best_step", "transfer"),
        *(f"validation_{score}" for score in DECISIVE_SCORES.values()),
    }
)


def score(
    model: Tagger,
    dataset: PackDataset,
    protocol: EvaluationProtocol,
    *,
    class_map: ClassMap | None = None,
    progress: Progress | None = None,
) -> tuple[Predictions, Scores]:
    """Return the predictions of a network on the clips of a pack, and their scores without intervals.

    With a class map the scores are zero-shot; the predictions are those of the network's classes.
    """
    predictions = predict(model, dataset, protocol, progress=progress, same_classes=class_map is None)
    if class_map is None:
        return predictions, evaluate(predictions, dataset.labels, protocol, bootstrap=0)
    mapped = class_map.between(model.labels, dataset.labels)
    return predictions, zero_shot(predictions, mapped, protocol, bootstrap=0).scores


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

    The pruning is read from the plan in the checkpoint. Without a plan (released files), the widths are compared with
    those of the zoo's row, and the criterion is ``unknown``. Recovery, fine-tuning (since the last pruning) and seed
    are read from the recipe. `name` is that of the checkpoint, `seconds` the wall-clock time of the evaluation.
    """
    provenance = model.provenance
    plan, recipe, since = provenance.plan, provenance.recipe, provenance.since_pruning
    trainings = [operation.settings["training"] for operation in since if "training" in operation.settings]
    base = unpruned_spec(model.spec, plan, provenance.width)
    layers = tuple(layer for layer, width in model.spec.widths.items() if width < base.widths[layer])
    ratios = set(plan.ratios.values()) if plan else {1 - model.spec.widths[each] / base.widths[each] for each in layers}
    # The seed of the last training or else of the last pruning; the best step only of a training that came last.
    trained = [operation.settings["training"]["seed"] for operation in recipe if "training" in operation.settings]
    seeds = trained or [operation.settings["seed"] for operation in recipe if operation.kind == "prune"] or [0]
    last = recipe[-1].settings if recipe else {}
    best_step = last["best_step"] if "training" in last and type(last.get("best_step")) is int else None
    length, split = scored_seconds(dataset, protocol, predictions), split_of(dataset)
    identity = {
        "kind": "evaluated",
        "checkpoint": f"{name}@{str(provenance.sha256)[:12]}",
        "packs": dataset.digest,
        "split": split,
        "protocol": scores.protocol,
    }
    # By its settings reports distinguish recipes; the names of the classes of a transfer would fill a table.
    settings = {
        f"{number}_{operation.kind}": {
            key: len(value) if operation.kind == "transfer" else value
            for key, value in operation.settings.items()
            if key not in _OUTCOMES
        }
        for number, operation in enumerate(recipe, start=1)
    }
    return RunRecord(
        trial_id=atomic.sha256_of_json(identity)[:12],
        experiment="evaluate",
        model=model.spec.name,
        width=recorded_width(model, base),
        criterion=None if not layers else "unknown" if plan is None else plan.criterion,
        layers=layers,
        ratio=float(ratios.pop()) if len(ratios) == 1 else None,
        recover="+".join(operation.settings["method"] for operation in since if operation.kind == "recover") or "none",
        finetune_iterations=sum(training["iterations"] for training in trainings),
        seed=int(seeds[-1]),
        dataset=dataset.dataset_name,
        protocol=scores.protocol,
        clip_seconds=length,
        config={**identity, "recipe": settings},
        plan_digest=None if plan is None else plan.digest,
        cost_before=profile(base, seconds=length).summary(),
        cost_after=profile(model, seconds=length).summary(),
        stages=(Stage("evaluated", {split: scores.summary()}, 0.0, best_step=best_step),),
        device=device_of(model),
        versions=versions(*DECISIVE_PACKAGES),
        seconds=round(seconds, 3),
        network=weights_digest(model),
        intervals={split: intervals} if (intervals := scores.intervals()) else {},
    )


def with_latency(record: RunRecord, model: Tagger) -> RunRecord:
    """Return a record with the latency of its network, on its device, for one input of `record.clip_seconds`."""
    latency = measure_latency(model, seconds=record.clip_seconds).to_dict()
    return replace(record, cost_after={**record.cost_after, "latency_ms": latency})


def write_evaluation(
    out: Path,
    record: RunRecord,
    predictions: Predictions,
    scores: Scores,
    labels: LabelSet,
    *,
    clip_scores: bool = True,
    group_pattern: str = "",
) -> None:
    """Write a new folder with ``result.json``, ``per_class.csv`` and, with `clip_scores`, ``scores.npz``.

    `record` is that of `record_of_checkpoint`, `group_pattern` as in `evaluate`.
    """
    with atomic.new_folder(out) as folder:
        atomic.write_json(folder / "result.json", record.to_dict())
        with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            rows = scores.to_dict()["per_class"]
            writer.writerow(rows[0])
            writer.writerows((row | {"name": spreadsheet_cell(row["name"])}).values() for row in rows)
        if clip_scores:
            groups = groups_to_draw(group_pattern, predictions.clip_ids) if group_pattern else ()
            write_clip_scores(folder / CLIP_SCORES, predictions.to_clip_scores(labels, groups))


def scored_seconds(dataset: PackDataset, protocol: EvaluationProtocol, predictions: Predictions) -> float:
    """Return the length of the network's input: a window, a packed clip, or the mean length of clips."""
    if protocol.own_length:  # MACs grow with the length
        return round(predictions.mean_samples / dataset.sample_rate, 3)
    return dataset.clip_seconds if protocol.window is None else protocol.window


def split_of(dataset: PackDataset) -> str:
    """Return the names of the scored splits; for a pack without names of splits, the name of its file."""
    splits = {
        split
        for path in (source.path for source in dataset.sources)
        for split in (read_pack_info(path).splits if (path / PACK_FILE).exists() else (path.stem,))
    }
    return "+".join(sorted(splits)) or "all"


def unpruned_spec(spec: ModelSpec, plan: PruningPlan | None, width: float | None = None) -> ModelSpec:
    """Return the architecture before pruning: the plan's base, or the zoo's row at `width`, by default `width_of`."""
    if plan is not None:
        return plan.base.with_num_classes(spec.num_classes)
    published = ZOO.get(spec.name)
    if published is None or set(published.widths) != set(spec.widths):
        return spec
    return spec.with_widths(published.scaled(width_of(spec) if width is None else width).widths)


def recorded_width(model: Tagger, base: ModelSpec) -> float:
    """Return the width factor in a network's checkpoint or, without it, the `width_of` its unpruned architecture."""
    width = model.provenance.width
    return round(width_of(base), 4) if width is None else float(width)


def width_of(spec: ModelSpec) -> float:
    """Return a network's widths as a factor on its row of the zoo; 1 without a row.

    If no factor gives all widths, some layers were pruned, and the factor of the least pruned layer is returned.
    """
    published = ZOO.get(spec.name)
    if published is None or set(published.widths) != set(spec.widths):
        return 1.0
    factors = [width / published.widths[layer] for layer, width in spec.widths.items()]
    candidates = [*(float(f"{factor:.3g}") for factor in factors), *factors]  # short numbers are the likely ones
    exact = [factor for factor in candidates if published.scaled(factor).widths == spec.widths]
    return exact[0] if exact else max(factors)


def device_of(model: nn.Module) -> str:
    """Return the device of a network and its processor, such as ``cpu (x86_64, 2 threads)``."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
