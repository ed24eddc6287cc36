"""Sensitivities as a figure: what each layer costs in mAP beside what it saves."""

from collections.abc import Callable
from pathlib import Path

from epanns.atomic import write_text
from epanns.pruning.budgets.sensitivity_table import SensitivityRow
from epanns.reporting import figures
from epanns.reporting.drawing import Drawing
from epanns.reporting.heat_map import HeatMap, RowName, heat_map_drawing
from epanns.reporting.layout import PALETTE
from epanns.reporting.svg import to_svg
from epanns.stages.sensitivity_record import FIGURES, SensitivityRecord

_VERMILLION, _GREEN, _BLUE = PALETTE[1], PALETTE[2], PALETTE[5]
_LEAST_FULL_LOSS = 0.05  # of mAP: less than that is no reason for a strong colour


def write_figures(record: SensitivityRecord, out: Path) -> tuple[Path, ...]:
    """Write the figure as SVG and, with matplotlib installed, as PNG and PDF; an earlier one is replaced."""
    drawing = sensitivity_drawing(record)
    svg, *images = (out / name for name in FIGURES)
    write_text(svg, to_svg(drawing))
    for path in images:
        path.unlink(missing_ok=True)
        if figures.can_draw():
            figures.draw(drawing, path)
    return tuple(path for path in (svg, *images) if path.exists())


def sensitivity_drawing(record: SensitivityRecord) -> Drawing:
    """Return one row per layer in forward order: loss of mAP, MACs and parameters saved, at each ratio."""
    table = record.table
    dense = table.dense
    losses = _values(record, table.loss_of)
    largest = max(abs(value) for row in losses for value in row if value is not None)
    heads = tuple(f"{100 * ratio:g} %" for ratio in table.ratios)

    def saved(title: str, values: tuple[tuple[float | None, ...], ...]) -> HeatMap:
        full = max(value for row in values for value in row if value is not None)
        return HeatMap(title, heads, values, full, _GREEN, _GREEN, 1)

    maps = (
        HeatMap("Loss of mAP", heads, losses, max(largest, _LEAST_FULL_LOSS), _VERMILLION, _BLUE, 3),
        saved("MACs saved, %", _values(record, lambda row: 100 * (1 - row.backbone_macs / dense.backbone_macs))),
        saved("Parameters saved, %", _values(record, lambda row: 100 * (1 - row.n_params / dense.n_params))),
    )
    widths = record.asked["model"]["widths"]
    names, group = [], ""
    for layer in table.layers:
        names.append(RowName(layer, str(widths[layer]), begins_group=layer.rpartition(".")[0] != group))
        group = layer.rpartition(".")[0]
    title = f"{record.asked['model']['name']}: one layer pruned at a time"
    lines = (
        f"Unpruned: mAP {dense.mAP:.4f} on {describe_clips(record)}.",
        f"Each layer {describe_settings(record)}.",
        "Beside a layer stands its width; over the columns, the share of its channels that goes.",
    )
    return heat_map_drawing(title, lines, names, maps, f"{title}; {lines[0]}")


def _values(
    record: SensitivityRecord, value: Callable[[SensitivityRow], float]
) -> tuple[tuple[float | None, ...], ...]:
    table = record.table
    return tuple(
        tuple(next((value(row) for row in table.of(layer) if row.ratio == ratio), None) for ratio in table.ratios)
        for layer in table.layers
    )


def describe_clips(record: SensitivityRecord) -> str:
    """Return which clips were scored, and how."""
    data = record.asked["data"]
    return f"{data['clips']:,} clips of {data['name']}, {data['clip_seconds']:g} s, {record.asked['protocol']}"


def describe_settings(record: SensitivityRecord) -> str:
    """Return which channels go, what is done before scoring, and on which clips."""
    words = {
        "none": "nothing done after it",
        "bn": "batch-norm statistics measured again",
        "ls": "readers fitted by least squares",
        "ls+bn": "readers fitted by least squares, then batch-norm statistics measured again",
    }
    recover, calibration = record.asked["recover"], record.asked["calibration"]
    text = f"pruned by {record.asked['criterion']}, {words.get(recover, recover)}"
    if recover == "none":
        return text
    if calibration is None:
        return f"{text} on the scored clips themselves, without their labels"
    return f"{text} on {calibration['clips']:,} clips of {calibration['name']}"
