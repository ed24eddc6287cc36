"""Sensitivities as a figure: mAP lost with each layer pruned alone, beside the cost saved."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from epanns.pruning.budgets.sensitivity_table import FIGURES, SensitivityRecord
from epanns.reporting.figures import style as canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _MARGIN, _CURVES = 1.5, 0.2, 3.4  # cm: margins, and the height of the panel of curves
_ROW, _CELL, _SHARE, _GAP = 0.36, 0.92, 0.92, 0.2  # cm: height of a row, widths of a loss, a saving and between them
_LEAST_FULL_LOSS = 0.05  # mAP: smaller losses never get the full colour


def write_figures(record: SensitivityRecord, out: Path) -> tuple[Path, ...]:
    """Write the figure as SVG, PDF and PNG and return the files; older ones are replaced."""
    name, description = record.asked["model"]["name"], describe_clips(record)
    title = f"{name}: one layer pruned at a time; unpruned mAP {record.table.dense.mAP:.4f} on {description}"
    return canvas.save(sensitivity_figure(record), out, Path(FIGURES[0]).stem, title=title)


@canvas.paper_style()
def sensitivity_figure(record: SensitivityRecord) -> "Figure":
    """Draw the loss of mAP against the ratio, a curve per layer, above a table of losses and savings."""
    table = record.table
    widths = record.asked["model"]["widths"]
    names = [f"{layer} ({widths[layer]})" for layer in table.layers]
    left = _MARGIN + max(map(canvas.text_width, names)) + 0.1
    width = max(canvas.COLUMN, left + _CELL * len(table.ratios) + 2 * _SHARE + _GAP + _MARGIN)
    remark = (
        f"unpruned: mAP {table.dense.mAP:.4f} on {describe_clips(record)}; each layer {describe_settings(record)}; "
        "in brackets: filters of the layer; saved: at its largest ratio"
    )
    heading = canvas.Heading(
        f"{record.asked['model']['name']}: one layer pruned at a time", remark, width - 2 * _MARGIN
    )
    rows = heading.height + _CURVES + 2.05
    figure = canvas.new_figure(rows + _ROW * len(names) + 0.2, width)
    heading.draw(figure, _MARGIN, 0.1)
    curves = canvas.add_axes(figure, _LEFT, heading.height + 0.1, width - _LEFT - 1.5, _CURVES)
    _draw_curves(curves, record, width - _LEFT - 1.5)
    axes = canvas.add_axes(figure, left, rows, width - left - _MARGIN, _ROW * len(names))
    _draw_table(axes, record, names, width - left - _MARGIN)
    return figure


def _draw_curves(axes: "Axes", record: SensitivityRecord, width: float) -> None:
    """Draw the loss of each layer against the ratio; the colour is the depth of the layer."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    table = record.table
    layers = table.layers
    colours, last = colormaps["viridis"], max(1, len(layers) - 1)
    for place, layer in enumerate(layers):
        points = sorted((row.ratio, table.loss_of(row)) for row in table.of(layer))
        marker = canvas.MARKERS[place % len(canvas.MARKERS)]
        look: dict[str, Any] = {"color": colours(0.93 * place / last), "marker": marker}
        axes.plot([0, *(100 * x for x, _ in points)], [0, *(y for _, y in points)], markersize=3, linewidth=0.9, **look)
    axes.axhline(0, color=canvas.BLACK, linewidth=0.6, linestyle="--", zorder=1.5)
    axes.set_xlabel("filters removed, %")
    axes.set_ylabel("loss of mAP")
    axes.yaxis.set_label_coords(-1.12 / width, 0.5)
    axes.set_xticks([0, *(100 * ratio for ratio in table.ratios)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
    bar = axes.figure.colorbar(
        ScalarMappable(Normalize(0, last), colours), cax=axes.inset_axes((1.03, 0.0, 0.025, 1.0))
    )
    bar.set_ticks([0, last], labels=["first", "last"])
    bar.set_label("layer", labelpad=-12)
    bar.outline.set_linewidth(0.4)
    bar.ax.invert_yaxis()


def _draw_table(axes: "Axes", record: SensitivityRecord, names: list[str], width: float) -> None:
    """Draw a coloured cell with its number for each layer and ratio, and the cost saved at the largest ratio."""
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
    from matplotlib.patches import Rectangle

    table, dense = record.table, record.table.dense
    losses = {(row.layer, row.ratio): table.loss_of(row) for layer in table.layers for row in table.of(layer)}
    full = max([_LEAST_FULL_LOSS, *map(abs, losses.values())])
    colours = LinearSegmentedColormap.from_list("loss", ["#0072B2", "white", "#D55E00"])
    green = LinearSegmentedColormap.from_list("share", ["white", "#009E73"])
    scale = TwoSlopeNorm(0, -full, full)
    axes.set_xlim(0, width)
    axes.set_ylim(len(names), 0)
    axes.set_axis_off()
    shares = _CELL * len(table.ratios) + _GAP
    columns = [(place * _CELL, _CELL, f"{100 * ratio:g} %") for place, ratio in enumerate(table.ratios)]
    columns += [(shares, _SHARE, "MACs"), (shares + _SHARE, _SHARE, "params")]
    saved = {
        row.layer: (1 - row.backbone_macs / dense.backbone_macs, 1 - row.n_params / dense.n_params)
        for layer in table.layers
        for row in table.of(layer)
        if row.ratio == max(each.ratio for each in table.of(layer))
    }
    most = [max(1e-9, *(share[place] for share in saved.values())) for place in (0, 1)]

    def cell(row: int, column: int, text: str, colour: tuple[float, ...]) -> None:
        x, cell_width, _ = columns[column]
        axes.add_patch(Rectangle((x, row), cell_width, 1, facecolor=colour, edgecolor="white", linewidth=1))
        is_dark = sum(weight * part for weight, part in zip((0.3, 0.59, 0.11), colour, strict=False)) < 0.5
        ink = "white" if is_dark else canvas.BLACK
        axes.text(x + cell_width / 2, row + 0.52, text, ha="center", va="center", color=ink)

    for x, column_width, text in columns:
        axes.text(x + column_width / 2, -0.25, text, ha="center", va="bottom")
    axes.text((shares - _GAP) / 2, -1.35, "loss of mAP", ha="center", va="bottom", weight="bold")
    axes.text(shares + _SHARE, -1.35, "saved, %", ha="center", va="bottom", weight="bold")
    for row, (layer, name) in enumerate(zip(table.layers, names, strict=True)):
        axes.text(-0.1, row + 0.52, name, ha="right", va="center")
        for column, ratio in enumerate(table.ratios):
            loss = losses.get((layer, ratio))
            text = "–" if loss is None else f"{round(loss, 3) + 0.0:.3f}".replace("-", "−")
            cell(row, column, text, colours(scale(loss or 0.0)))
        for place, share in enumerate(saved[layer]):
            cell(row, len(table.ratios) + place, f"{100 * share:.1f}", green(0.75 * share / most[place]))


def describe_clips(record: SensitivityRecord) -> str:
    """Return which clips are scored, and how."""
    data = record.asked["data"]
    scored = ", mAP of the unpruned network's own tags" if record.asked.get("score") == "agreement" else ""
    if "class_map_sha256" in record.asked:
        scored += f", zero-shot, class map {record.asked['class_map_sha256'][:8]}"
    clips = f"{data['clips']:,} clips of {data['name']}, {data['clip_seconds']:g} s, {record.asked['protocol']}"
    return f"{clips}{scored}"


def describe_settings(record: SensitivityRecord) -> str:
    """Return how channels are chosen, how the network recovers before it is scored, and on which clips."""
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
