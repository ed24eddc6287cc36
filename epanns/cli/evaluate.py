"""``epanns evaluate``: how good a checkpoint is on a pack."""

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns import atomic
from epanns.cli.options import (
    EXISTING,
    SEED,
    EpannsCommand,
    device_option,
    emit,
    in_process_group,
    json_option,
    out_option,
    progress_counter,
)
from epanns.cli.packs import in_order_of, open_packs, pack_options, tell_unknown_lengths
from epanns.cli.processes import at_most_cores
from epanns.distributed import rank

if TYPE_CHECKING:
    from epanns.evaluation.scores import ClassScore, Scores

_SHOWN = 5


@click.command("evaluate", cls=EpannsCommand)
@click.argument("checkpoint", metavar="CKPT", type=EXISTING)
@click.option("--data", "packs", type=EXISTING, multiple=True, required=True, help="Pack to score; may be repeated.")
@click.option("--window", type=float, help="Score windows of so many seconds, not the whole clip.")
@click.option("--hop", type=float, help="With --window: seconds between window starts.  [default: the window]")
@click.option(
    "--aggregate",
    default="mean_prob",
    show_default=True,
    help="With --window: clip score = mean_prob, mean_logit or max_prob of its windows.",
)
@click.option("--own-length", is_flag=True, help="Score each clip at its own length, without the zeros after it.")
@pack_options
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Clips at a time.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    callback=at_most_cores,
    help="Processes that read clips; at most the number of cores.",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Resamples of the clips behind the 95 % intervals; 0 for none.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the resampling.")
@device_option
@out_option("Folder for result.json, which `epanns report` reads, and per_class.csv; must not exist.", required=False)
@json_option
@in_process_group
def command(
    checkpoint: Path,
    packs: tuple[Path, ...],
    window: float | None,
    hop: float | None,
    aggregate: str,
    own_length: bool,
    labels_file: Path | None,
    mp3_seconds: float,
    batch_size: int,
    workers: int,
    bootstrap: int,
    seed: int,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score CKPT on packs: mAP with its 95 % interval, mAUC, d-prime, and every class.

    A single-label network is scored by accuracy too: the share of clips whose class has the highest score.

    Windows cover each clip's own samples; the last one is shifted back to end with the clip, and a clip shorter than
    the window is repeated up to it. Without --window the network hears the rows of the pack, zeros after short clips
    included, or with --own-length each clip without them.
    """
    if out is not None:
        atomic.refuse_existing(out)
    from epanns.evaluation.metrics import evaluate
    from epanns.evaluation.predict import predict
    from epanns.evaluation.protocol import EvaluationProtocol
    from epanns.models.checkpoint import load
    from epanns.sweeps.evaluated import record_of_checkpoint

    started = time.perf_counter()
    protocol = EvaluationProtocol(window, hop, aggregate, own_length)
    model = load(checkpoint).to(device)
    rate = model.spec.front_end.sample_rate
    dataset = open_packs(packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate)
    dataset = in_order_of(model, dataset)
    if window is not None:
        tell_unknown_lengths(dataset, "windows")
    with progress_counter("clips", "clip") as progress:
        predictions = predict(model, dataset, protocol, batch_size=batch_size, workers=workers, progress=progress)
    if rank() > 0:
        return  # the first process has the scores of all
    scores = evaluate(predictions, dataset.labels, protocol, bootstrap=bootstrap, seed=seed)
    if out is not None:
        record = record_of_checkpoint(
            model,
            dataset,
            predictions,
            scores,
            protocol,
            name=checkpoint.resolve().name,
            seconds=time.perf_counter() - started,
        )
        _write(out, record.to_dict(), scores)
    emit(scores.to_dict(), describe(scores), as_json)


def describe(scores: "Scores") -> str:
    """Return a summary for people: the means, then the best and the worst classes."""
    left_out = len(scores.classes_without_positives)
    accuracy = "" if scores.accuracy is None else f"accuracy {scores.accuracy:.4f}{_interval(scores.accuracy_interval)}"
    lines = [
        *([accuracy] if accuracy else []),
        f"mAP      {scores.mAP:.4f}{_interval(scores.mAP_interval)}",
        f"mAUC     {_number(scores.mAUC)}",
        f"d-prime  {_number(scores.d_prime)}",
        f"{scores.n_clips:,} clips, {scores.protocol}; {scores.n_classes_scored} classes scored"
        + (f", {left_out} without positives left out" if left_out else ""),
    ]
    ranked = sorted((row for row in scores.per_class if row.ap is not None), key=lambda row: -(row.ap or 0.0))
    if len(ranked) <= 2 * _SHOWN:
        return "\n".join([*lines, *_class_lines("classes, best first", ranked)])
    worst = ranked[: -_SHOWN - 1 : -1]
    return "\n".join([*lines, *_class_lines("best classes", ranked[:_SHOWN]), *_class_lines("worst classes", worst)])


def _class_lines(heading: str, rows: "list[ClassScore]") -> list[str]:
    return [f"{heading}:", *(f"  {_number(row.ap)}  {row.name} ({_clips(row)})" for row in rows)]


def _clips(row: "ClassScore") -> str:
    right = "" if row.recall is None else f", {round(row.recall * row.n_positive)} right"
    return f"{row.n_positive} positive{right}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"  (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _write(out: Path, record: dict[str, Any], scores: "Scores") -> None:
    with atomic.new_folder(out) as partial:
        atomic.write_json(partial / "result.json", record)
        with (partial / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            rows = scores.to_dict()["per_class"]
            writer.writerow(rows[0])
            writer.writerows(row.values() for row in rows)
