"""``epanns evaluate``: scores of a checkpoint on packs."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns.cli.shared.options import CHECKPOINT, EpannsCommand, in_process_group, json_option, out_option, reserve
from epanns.cli.shared.packs import in_order_of
from epanns.cli.shared.scoring import (
    MAP_OPTION,
    Scoring,
    interval_in_words,
    log_left_out,
    number_in_words,
    scoring_options,
)
from epanns.cli.shared.terminal import emit, progress_counter
from epanns.distributed import on_rank_zero, rank
from epanns.errors import ConfigError
from epanns.safe_text import is_printable, printable

if TYPE_CHECKING:
    from epanns.evaluation.scores import ClassScore, Scores

_SHOWN = 5
_LONGEST_NAME = 100


@click.command("evaluate", cls=EpannsCommand)
@click.argument("checkpoint", metavar="CKPT", type=CHECKPOINT)
@scoring_options
@MAP_OPTION
@click.option("--name", default="", help="Name of the network in reports.  [default: made from its settings]")
@click.option(
    "--scores/--no-scores", "keeps_scores", default=True, help="Whether scores.npz is written to --out.  [default: yes]"
)
@click.option("--latency", is_flag=True, help="Measure the latency of one clip or window too, for the record in --out.")
@out_option(
    "Folder for result.json, which `epanns report` reads, per_class.csv and scores.npz, the scores of all clips; must "
    "not exist.",
    required=False,
)
@json_option
@in_process_group
def command(
    checkpoint: Path,
    scoring: Scoring,
    class_map: Path | None,
    device: str,
    name: str,
    keeps_scores: bool,
    latency: bool,
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

    With --map, CKPT is scored on the classes of another data set. Clips without a mapped class are left out.
    """
    if out is not None:
        on_rank_zero(lambda: reserve(out))
    _check(name, latency, out)
    from epanns.evaluation.class_map import ClassMap
    from epanns.evaluation.metrics import evaluate
    from epanns.evaluation.predict import predict
    from epanns.evaluation.zero_shot import zero_shot
    from epanns.models.files.load import load
    from epanns.stages.score import record_of_checkpoint, with_latency, write_evaluation

    started = time.perf_counter()
    protocol = scoring.protocol()
    given_map = None if class_map is None else ClassMap.from_csv(class_map)
    model = load(checkpoint).to(device)
    dataset = scoring.open_packs(model.spec.front_end.sample_rate)
    if given_map is None:
        dataset, mapped = in_order_of(model, dataset), None
    else:
        mapped = given_map.between(model.labels, dataset.labels)
    with progress_counter("clips", "clip") as progress:
        predictions = predict(
            model,
            dataset,
            protocol,
            batch_size=scoring.batch_size,
            workers=scoring.workers,
            progress=progress,
            same_classes=mapped is None,
        )
    if rank() > 0:
        return  # the first process has all scores
    labels = dataset.labels
    if mapped is None:
        scores = evaluate(predictions, labels, protocol, **scoring.intervals)
        result = scores.to_dict()
    else:
        found = zero_shot(predictions, mapped, protocol, **scoring.intervals)
        log_left_out(found)
        scores, predictions, labels, result = found.scores, found.predictions, mapped.labels, found.to_dict()
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
        if latency:
            record = with_latency(record, model)
        write_evaluation(
            out,
            replace(record, name=name),
            predictions,
            scores,
            labels,
            clip_scores=keeps_scores,
            group_pattern=scoring.group_pattern,
        )
    emit(result, describe(scores), as_json)


def _check(name: str, latency: bool, out: Path | None) -> None:
    """Refuse a name that no table can show, and a latency that goes nowhere."""
    if name and (not is_printable(name) or name != name.strip() or len(name) > _LONGEST_NAME):
        raise ConfigError(f"--name {name[:40]!r}: must be printable text of at most {_LONGEST_NAME} characters")
    if latency and out is None:
        raise ConfigError("--latency is written to result.json in --out, which is missing: give --out")


def describe(scores: "Scores") -> str:
    """Return a summary in words: the means, then the best and the worst classes."""
    left_out = len(scores.classes_without_positives)
    by_group = scores.by_group
    of_accuracy = interval_in_words(scores.accuracy_interval, by_group.accuracy_interval if by_group else None)
    of_map = interval_in_words(scores.mAP_interval, by_group.mAP_interval if by_group else None)
    groups = f"; those by group, of {by_group.n_groups:,} groups of clips" if by_group else ""
    resampling = f"intervals by clip: {scores.resamples:,} resamples of {scores.n_clips:,} clips{groups}"
    lines = [
        *([] if scores.accuracy is None else [f"accuracy {scores.accuracy:.4f}{of_accuracy}"]),
        f"mAP      {scores.mAP:.4f}{of_map}",
        f"mAUC     {number_in_words(scores.mAUC)}",
        f"d-prime  {number_in_words(scores.d_prime)}",
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
        lines.append(f"  {number_in_words(row.ap)}  {printable(row.name)} ({row.n_positive} positive{right})")
    return lines
