"""``epanns sensitivity``: mAP by ratio with one layer pruned at a time."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import (
    CHECKPOINT,
    EXISTING,
    SEED,
    EpannsCommand,
    device_option,
    json_option,
    out_option,
    torch_device,
)
from epanns.cli.shared.packs import in_order_of, open_packs, pack_options
from epanns.cli.shared.scoring import MAP_OPTION
from epanns.cli.shared.terminal import emit, log
from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.data.batches.dataset import PackDataset
    from epanns.models.tagger import Tagger
    from epanns.pruning.budgets.sensitivity_table import SensitivityRecord
    from epanns.stages.sensitivity import SensitivityConfig


@click.command("sensitivity", cls=EpannsCommand)
@click.argument("checkpoint", metavar="CKPT", type=CHECKPOINT)
@click.option(
    "--data", "packs", type=EXISTING, multiple=True, required=True, help="Pack of clips to score; may be repeated."
)
@out_option("Folder for the table and the figure. The same command resumes the measurement.")
@click.option("--ratios", default="0.25,0.5,0.75", show_default=True, help="Fractions of a layer's channels removed.")
@click.option("--layers", help="Comma-separated layers or blocks.  [default: all]")
@click.option("--criterion", default="l1", show_default=True, help="Ranking of the channels, as in `epanns prune`.")
@click.option(
    "--recover",
    type=click.Choice(["none", "bn", "ls", "ls+bn"]),
    default="bn",
    show_default=True,
    help="Recovery before scoring, without labels. bn: measure batch-norm statistics again. ls: fit the layers that "
    "read pruned channels by least squares. ls+bn: one after the other.",
)
@click.option(
    "--score",
    type=click.Choice(["mAP", "agreement"]),
    help="mAP: on labels, with --map zero-shot. agreement: mAP of the unpruned network's own tags, without labels.  "
    "[default: mAP where the packs have labels of the network's classes or --map is given, else agreement]",
)
@MAP_OPTION
@click.option(
    "--calibration", type=EXISTING, help="Pack of clips for --recover and --criterion.  [default: the scored clips]"
)
@pack_options
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of criteria that draw numbers.")
@device_option
@click.option("--fresh", is_flag=True, help="Delete an earlier measurement in --out and start over.")
@json_option
def command(
    checkpoint: Path,
    packs: tuple[Path, ...],
    out: Path,
    ratios: str,
    layers: str | None,
    calibration: Path | None,
    class_map: Path | None,
    labels_file: Path | None,
    mp3_seconds: float,
    device: str,
    fresh: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score CKPT with one layer pruned at a time, at each of --ratios.

    Writes sensitivity.csv, sensitivity.json and sensitivity.svg, .pdf and .png.
    """
    from epanns.evaluation.class_map import ClassMap
    from epanns.models.files.load import load
    from epanns.pruning.budgets.sensitivity_table import RECORD, TABLE
    from epanns.pruning.ranking.criteria import needs_clips
    from epanns.reporting.figures.sensitivity import describe_clips, describe_settings, write_figures
    from epanns.stages.sensitivity import SensitivityConfig, measure_sensitivity
    from epanns.workfolder import DRAWING_SECONDS, WorkFolder

    if settings["recover"] == "none" and not needs_clips(settings["criterion"]) and calibration is not None:
        raise ConfigError("--calibration has no use with --recover none: remove --calibration, or choose a recovery")
    names = None if layers is None else [name.strip() for name in layers.split(",") if name.strip()]
    try:
        fractions = tuple(float(part) for part in ratios.split(","))
    except ValueError as error:
        raise ConfigError(f"--ratios {ratios}: must be numbers in (0, 1) with commas between, as 0.25,0.5") from error
    given_map = None if class_map is None else ClassMap.from_csv(class_map)
    config = SensitivityConfig(ratios=fractions, layers=names, class_map=given_map, **settings)
    device = torch_device(device)
    model = load(checkpoint).to(device)
    rate = model.spec.front_end.sample_rate
    opened = partial(open_packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate)
    dataset = in_order_of(model, opened(packs))
    clips = None if calibration is None else opened([calibration])
    _log_score(model, dataset, config)
    record = measure_sensitivity(model, dataset, config, out, calibration=clips, on_row=_row_logger(), fresh=fresh)
    if left_out := set(model.layer_names if layers is None else ()) - set(record.asked["layers"]):
        log(f"left out, too narrow to lose a channel at any of the ratios: {', '.join(sorted(left_out))}")
    with WorkFolder(out).locked(wait=DRAWING_SECONDS):
        files = [out / TABLE, out / RECORD, *write_figures(record, out)]
    table = record.table
    losses = {(row.layer, row.ratio): f"{table.loss_of(row):.4f}" for layer in table.layers for row in table.of(layer)}
    longest = max(map(len, table.layers))
    lines = [
        f"{out}: unpruned mAP {table.dense.mAP:.4f} on {describe_clips(record)}",
        f"{describe_settings(record)}; loss of mAP:",
        " " * longest + "".join(f"{100 * ratio:>8g} %" for ratio in table.ratios),
        *(
            layer.ljust(longest) + "".join(losses.get((layer, ratio), "").rjust(10) for ratio in table.ratios)
            for layer in table.layers
        ),
        f"in {out}: {', '.join(file.name for file in files)}",
    ]
    result = {key: value for key, value in record.to_dict().items() if key not in ("format", "n_rows", "is_complete")}
    emit({"out": str(out), **result, "files": [str(file) for file in files]}, "\n".join(lines), as_json)


def _log_score(model: "Tagger", dataset: "PackDataset", config: "SensitivityConfig") -> None:
    """Log how rows are scored where it is not by labels of the network's classes, and scores that cannot vary."""
    from epanns.training.validation import constant_map

    if config.class_map is not None:
        for remark in config.class_map.between(model.labels, dataset.labels).remarks():
            log(remark)
    elif config.score_on(model, dataset) == "agreement":
        log("scored by agreement: mAP is that of the unpruned network's own tags")
    elif (note := constant_map(dataset)) is not None:
        log(f"{note}, so no pruning can cost any; give clips with and without each class (--data)")


def _row_logger() -> "Callable[[SensitivityRecord], None]":
    """Return a function that logs each row with the remaining time."""
    before: list[tuple[int, float]] = []

    def log_row(record: "SensitivityRecord") -> None:
        n_done = len(record.rows)
        if not before:
            before.append((n_done, time.monotonic()))
            if n_done:
                log(f"resume: {n_done} of {record.n_rows} rows are done")
            return
        first, started = before[0]
        left = (time.monotonic() - started) / (n_done - first) * (record.n_rows - n_done)
        row = record.rows[-1]
        what = f"{row.layer} {100 * row.ratio:g} %: mAP {row.mAP:.4f}, loss {record.table.loss_of(row):.4f}"
        minutes = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        rest = f", about {minutes} left" if n_done < record.n_rows else ""
        log(f"[{n_done}/{record.n_rows}] {what if row.layer else f'unpruned: mAP {row.mAP:.4f}'}{rest}")

    return log_row
