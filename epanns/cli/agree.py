"""``epanns agree``: how far the outputs of a pruned network are from those of the unpruned one, without labels."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns import atomic
from epanns.cli.shared.options import CHECKPOINT, EpannsCommand, in_process_group, json_option, out_option, reserve
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
from epanns.safe_text import spreadsheet_cell

if TYPE_CHECKING:
    from epanns.stages.agreement import Comparison


@click.command("agree", cls=EpannsCommand)
@click.argument("pruned", metavar="PRUNED", type=CHECKPOINT)
@click.argument("dense", metavar="DENSE", type=CHECKPOINT)
@scoring_options
@MAP_OPTION
@out_option("Folder for agreement.json and per_class.csv; must not exist.", required=False)
@json_option
@in_process_group
def command(
    pruned: Path,
    dense: Path,
    scoring: Scoring,
    class_map: Path | None,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare PRUNED with DENSE, the network that it was made of, on clips without labels.

    Measures the correlation of the logits of each class over the clips; the mean average precision of PRUNED's scores
    for the tags of DENSE; and Kendall's tau of the ranking of the classes on each clip. All three are 1 for equal
    outputs.

    With --map, both networks are scored on the labels of the packs too. Clips without a mapped class are left out.
    """
    if out is not None:
        on_rank_zero(lambda: reserve(out))
    from epanns.evaluation.class_map import ClassMap
    from epanns.models.files.load import load
    from epanns.stages.agreement import compare, predict_both

    protocol = scoring.protocol()
    given_map = None if class_map is None else ClassMap.from_csv(class_map)
    network, unpruned = load(pruned).to(device), load(dense).to(device)
    dataset = scoring.open_packs(unpruned.spec.front_end.sample_rate)
    mapped = None if given_map is None else given_map.between(unpruned.labels, dataset.labels)
    with progress_counter("clips", "clip") as progress:
        predictions = predict_both(
            network,
            unpruned,
            dataset,
            protocol,
            batch_size=scoring.batch_size,
            workers=scoring.workers,
            progress=progress,
        )
    if rank() > 0:
        return  # the first process has all scores
    found = compare(predictions, unpruned.labels, protocol, mapped, **scoring.intervals)
    if found.dense is not None:
        log_left_out(found.dense)
    result = {"pruned": str(pruned), "dense": str(dense), "dataset": dataset.dataset_name, **found.to_dict()}
    if out is not None:
        with atomic.new_folder(out) as folder:
            atomic.write_json(folder / "agreement.json", result)
            with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(result["per_class"][0])
                writer.writerows(
                    (row | {"name": spreadsheet_cell(row["name"])}).values() for row in result["per_class"]
                )
    emit(result, describe(found), as_json)


def describe(found: "Comparison") -> str:
    """Return a summary in words: the means with their intervals, and the numbers of classes and clips left out."""
    agreement, by_group = found.agreement, found.agreement.by_group

    def line(name: str, text: str) -> str:
        interval = getattr(agreement.intervals, name)
        return f"{text}{number_in_words(getattr(agreement, name))}" + interval_in_words(
            interval, getattr(by_group, name) if by_group else None
        )

    few, none, every = (
        len(names)
        for names in (
            agreement.classes_with_few_tags,
            agreement.classes_without_tags,
            agreement.classes_tagged_in_all,
        )
    )
    n_scored = agreement.n_classes - few - none - every
    lines = [
        line("correlation", "correlation of logits  "),
        line("tag_mAP", "mAP of own tags        "),
        line("tau", "Kendall's tau          "),
        f"{agreement.n_clips:,} clips, {agreement.protocol}; {agreement.n_classes} classes",
        f"correlation: {len(agreement.constant_classes)} classes that do not vary left out",
        f"own tags: {agreement.n_tags:,} scores of the unpruned network, {agreement.threshold:.4f} or higher; "
        f"{n_scored} classes scored; left out are {none} without tags, {few} with one or two, {every} tagged in all",
    ]
    if agreement.n_clips_without_ranking:
        lines.append(f"Kendall's tau: {agreement.n_clips_without_ranking} clips without a ranking left out")
    if found.pruned is None or found.dense is None:
        return "\n".join(lines)
    for title, each in (("pruned", found.pruned), ("unpruned", found.dense)):
        scores = each.scores
        words = interval_in_words(scores.mAP_interval, scores.by_group.mAP_interval if scores.by_group else None)
        accuracy = "" if scores.accuracy is None else f", accuracy {scores.accuracy:.4f}"
        lines.append(f"zero-shot mAP, {title:<9}{scores.mAP:.4f}{words}{accuracy}")
    share = "" if found.kept is None else f"{100 * found.kept:.1f} % of the unpruned network's mAP; "
    return "\n".join(
        [*lines, f"{share}{found.dense.scores.n_clips:,} clips, {found.dense.scores.n_classes_scored} classes scored"]
    )
