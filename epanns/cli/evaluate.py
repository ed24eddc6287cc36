"""``epanns evaluate``: scores of a checkpoint on packs."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns.cli.shared.options import (
    EXISTING,
    SEED,
    EpannsCommand,
    bounded_option,
    device_option,
    in_process_group,
    json_option,
    out_option,
    reserve,
)
from epanns.cli.shared.packs import in_order_of, log_unknown_lengths, open_packs, pack_options
from epanns.cli.shared.terminal import emit, progress_counter
from epanns.distributed import on_rank_zero, rank
from epanns.errors import ConfigError
from epanns.safe_text import is_printable, printable

if TYPE_CHECKING:
    from epanns.evaluation.scores import ClassScore, Scores

_SHOWN = 5
_LONGEST_NAME = 100


@click.command("evaluate", cls=EpannsCommand)
@click.argument("checkpoint", metavar="CKPT", type=EXISTING)
@click.option(
    "--data", "packs", type=EXISTING, multiple=True, required=True, help="Pack of clips to score; may be repeated."
)
@click.option("--window", type=float, help="Length in seconds of the scored windows.  [default: whole clips]")
@click.option("--hop", type=float, help="Seconds between the starts of windows, with --window.  [default: --window]")
@click.option(
    "--aggregate",
    default="mean_prob",
    show_default=True,
    help="Score of a clip from those of its windows, with --window: mean_prob, mean_logit or max_prob.",
)
@click.option("--own-length", is_flag=True, help="Score each clip at its own length, without the zeros after it.")
@pack_options
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Number of clips per forward pass."
)
@bounded_option("--workers", "Number of processes that read clips", least=0)
@click.option(
    "--bootstrap",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Number of resamples of the clips for the 95 % intervals; 0 for none.",
)
@click.option(
    "--group-pattern",
    default="",
    help="Regular expression with one capturing group that finds each clip's recording, speaker or place in its file "
    "name, or else in its whole clip id: '^[0-9]-([0-9]+)-' for ESC-50. Adds intervals whose resamples draw groups.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the resampling.")
@device_option
@click.option("--name", default="", help="Name of the network in reports.  [default: made from its settings]")
@click.option(
    "--scores/--no-scores", "keeps_scores", default=True, help="Whether scores.npz is written to --out.  [default: yes]"
)
@out_option(
    "Folder for result.json, which `epanns report` reads, per_class.csv and scores.npz, the scores of all clips; must "
    "not exist.",
    required=False,
)
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
    group_pattern: str,
    device: str,
    name: str,
    keeps_scores: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score CKPT on packs: mAP with its 95 % interval, mAUC, d-prime, and every class.

    A single-label network is scored by accuracy too: the share of clips whose class has the highest score.

    The intervals are by clip. They are too narrow if several clips are slices of one recording; --group-pattern adds
    intervals by recording.

    Windows cover each clip's own samples; the last window is shifted back to end with the clip, and a clip shorter than
    the window is repeated up to its length. Without --window, whole rows of the pack are scored with the zeros after
    short clips, or with --own-length without them.
    """
    if out is not None:
        on_rank_zero(lambda: reserve(out))
    if name and (not is_printable(name) or name != name.strip() or len(name) > _LONGEST_NAME):
        raise ConfigError(f"--name {name[:40]!r}: must be printable text of at most {_LONGEST_NAME} characters")
    from epanns.evaluation.metrics import evaluate, groups_to_draw
    from epanns.evaluation.predict import predict
    from epanns.evaluation.protocol import EvaluationProtocol
    from epanns.models.files.load import load
    from epanns.stages.score import record_of_checkpoint, write_evaluation

    started = time.perf_counter()
    protocol = EvaluationProtocol(window, hop, aggregate, own_length)
    model = load(checkpoint).to(device)
    rate = model.spec.front_end.sample_rate
    dataset = open_packs(packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate)
    dataset = in_order_of(model, dataset)
    if group_pattern:
        groups_to_draw(group_pattern, [clip_id.decode() for clip_id in dataset.clip_ids])  # raises before the work
    if window is not None:
        log_unknown_lengths(dataset, "windows")
    with progress_counter("clips", "clip") as progress:
        predictions = predict(model, dataset, protocol, batch_size=batch_size, workers=workers, progress=progress)
    if rank() > 0:
        return  # the first process has all scores
    scores = evaluate(
        predictions, dataset.labels, protocol, bootstrap=bootstrap, seed=seed, group_pattern=group_pattern
    )
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
        write_evaluation(
            out,
            replace(record, name=name),
            predictions,
            scores,
            dataset.labels,
            clip_scores=keeps_scores,
            group_pattern=group_pattern,
        )
    emit(scores.to_dict(), describe(scores), as_json)


def describe(scores: "Scores") -> str:
    """Return a summary in words: the means, then the best and the worst classes."""
    left_out = len(scores.classes_without_positives)
    by_group = scores.by_group
    of_accuracy = _interval(scores.accuracy_interval, by_group.accuracy_interval if by_group else None)
    of_map = _interval(scores.mAP_interval, by_group.mAP_interval if by_group else None)
    groups = f"; those by group, of {by_group.n_groups:,} groups of clips" if by_group else ""
    resampling = f"intervals by clip: {scores.resamples:,} resamples of {scores.n_clips:,} clips{groups}"
    lines = [
        *([] if scores.accuracy is None else [f"accuracy {scores.accuracy:.4f}{of_accuracy}"]),
        f"mAP      {scores.mAP:.4f}{of_map}",
        f"mAUC     {_number(scores.mAUC)}",
        f"d-prime  {_number(scores.d_prime)}",
        f"{scores.n_clips:,} clips, {scores.protocol}; {scores.n_classes_scored} classes scored"
        + (f", {left_out} without positives left out" if left_out else ""),
        *([resampling] if scores.mAP_interval else []),
    ]
    ranked = sorted((row for row in scores.per_class if row.ap is not None), key=lambda row: -(row.ap or 0.0))
    if len(ranked) <= 2 * _SHOWN:
        return "\n".join([*lines, *_class_lines("classes, best first", ranked)])
    worst = ranked[: -_SHOWN - 1 : -1]
    return "\n".join([*lines, *_class_lines("best classes", ranked[:_SHOWN]), *_class_lines("worst classes", worst)])


def _class_lines(heading: str, rows: "list[ClassScore]") -> list[str]:
    lines = [f"{heading}:"]
    for row in rows:
        right = "" if row.recall is None else f", {round(row.recall * row.n_positive)} right"
        lines.append(f"  {_number(row.ap)}  {printable(row.name)} ({row.n_positive} positive{right})")
    return lines


def _interval(interval: tuple[float, float] | None, by_group: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    groups = f", by group {by_group[0]:.4f} to {by_group[1]:.4f}" if by_group else ""
    return f"  (95 % interval {interval[0]:.4f} to {interval[1]:.4f}{groups})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
