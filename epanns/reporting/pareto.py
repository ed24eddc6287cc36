"""Rows to the Pareto chart: mAP against parameters and against multiply-adds."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from epanns.reporting.chart import Band, Chart, LegendEntry, Panel, Point, Series, Style
from epanns.reporting.layer_names import short_layers
from epanns.reporting.quoted import QuotedRow
from epanns.reporting.rows import CONTROL, UNPRUNED, BlockKey, Estimate, Row, settings_in_words

# stage -> (marker, words, dashed line)
_STAGES = {
    "pruned": ("triangle", "one-shot: as cut, no training after", True),
    "recovered": ("square", "recovered, without labels", True),
    "finetuned": ("circle", "fine-tuned", False),
    "evaluated": ("diamond", "checkpoint as evaluated", False),
}
_UNPRUNED_STYLE = Style(None, "star")
_CONTROL_STYLE = Style(None, "circle")

_QUOTED_MARKERS = ("circle", "square", "diamond", "triangle")

RowValue = Callable[[Row], float]


def pareto_chart(blocks: Mapping[BlockKey, Sequence[Row]], quoted: Sequence[QuotedRow]) -> Chart:
    """Return one band of two panels per block, then one per data set of the quoted rows, never on shared axes."""
    measured = [_measured_band(key, rows) for key, rows in blocks.items()]
    published = [_quoted_band(*key, list(rows)) for key, rows in groupby(_shown(quoted), key=_shared)]
    bands = tuple(band for band in [*measured, *published] if any(panel.series for panel in band.panels))
    return Chart(bands, "mAP against parameters and against multiply-adds: " + "; ".join(band.title for band in bands))


def _measured_band(key: BlockKey, rows: Sequence[Row]) -> Band:
    costs: dict[str, RowValue] = {
        "Parameters": lambda row: row.n_params,
        f"MACs per {key.clip_seconds:g} s": lambda row: row.backbone_macs,
    }
    lines = _lines(rows)
    panels = [Panel(label, "mAP", _label_tops(_measured_series(rows, lines, cost))) for label, cost in costs.items()]
    return Band(
        title=f"{key.dataset}, {key.split} (measured)",
        subtitle=f"{key.protocol}, {key.clip_seconds:g} s input; {_seeds(rows)}",
        panels=tuple(panels),
        legend=_legend(rows, lines),
    )


def _lines(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group pruned rows that differ in their ratio only; the key is the line's name in the legend."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row.is_pruned:
            lines.setdefault(_line_name(row), []).append(row)
    return lines


def _line_name(row: Row) -> str:
    network = f"{row.name} ({row.network})" if row.name else row.network
    words = [network, row.variant, short_layers(row.layers)]
    words += [f"budget of {row.budget}"] if row.budget is not None else []
    words += [row.recover] if row.recover != "none" else []
    words += [f"{row.finetune_iterations:,} iterations"] if row.finetune_iterations else []
    return ", ".join([*words, *settings_in_words(row)])


def _measured_series(rows: Sequence[Row], lines: Mapping[str, Sequence[Row]], cost: RowValue) -> list[Series]:
    series = []
    for colour, (name, members) in enumerate(lines.items()):
        for stage, (marker, _, is_dashed) in _STAGES.items():
            pruned = [point for row in members if (point := _point(row, stage, cost, _ratio_label(row))) is not None]
            if pruned:
                points = (*_start(rows, members[0], stage, cost), *pruned)
                series.append(Series(name, points, Style(colour, marker, is_dashed=is_dashed), is_joined=True))
    names = _unpruned_names(rows)
    for row in rows:
        point = _point(row, next(iter(row.mAP), ""), cost, names.get(id(row), ""))
        if point is not None and not row.is_pruned:
            series.append(Series(row.variant, (point,), _UNPRUNED_STYLE if row.variant == UNPRUNED else _CONTROL_STYLE))
    return series


def _unpruned_names(rows: Sequence[Row]) -> dict[int, str]:
    """Return the name beside the mark of each unpruned row, by ``id``: no two rows of a variant have one name.

    The name that a person gave comes first, then the name of the network, which a line of the legend may make needless;
    rows that still share one are numbered. Where the network that was trained on has such a name or number, it stands
    beside the one as trained alone.
    """
    named_in_legend = {row.network for row in rows if row.is_pruned and not row.name}
    names: dict[int, str] = {}
    for variant in (UNPRUNED, CONTROL):
        members = [row for row in rows if row.variant == variant]
        shared = Counter((row.name, row.network) for row in members)
        numbers = Counter[tuple[str, str]]()
        for row in members:
            numbers[row.name, row.network] += 1
            plain = row.name or ("" if row.network in named_in_legend else row.network)
            number = f"({numbers[row.name, row.network]})" if shared[row.name, row.network] > 1 else ""
            name = f"{plain} {number}".strip()
            names[id(row)] = "" if (number or row.name) and name in names.values() else name
    return names


def _start(rows: Iterable[Row], pruned: Row, stage: str, cost: RowValue) -> list[Point]:
    """Where a line begins: its unpruned network, for fine-tuned points the one trained on as long."""
    variant, source = (CONTROL, "finetuned") if stage == "finetuned" else (UNPRUNED, "dense")
    points = [
        _point(row, source, cost, "")
        for row in rows
        if row.variant == variant
        and (row.experiment, row.model, row.width, row.name)
        == (pruned.experiment, pruned.model, pruned.width, pruned.name)
        and row.finetune_iterations in (0, pruned.finetune_iterations)
        and set(row.settings) <= set(pruned.settings)
    ]
    return [replace(point, error=0.0) for point in points[:1] if point is not None]


def _point(row: Row, stage: str, cost: RowValue, label: str) -> Point | None:
    estimate: Estimate | None = row.mAP.get(stage)
    return None if estimate is None else Point(cost(row), estimate.mean, estimate.sd or 0.0, label)


def _ratio_label(row: Row) -> str:
    if row.budget is not None:
        return row.budget
    return "by layer" if row.ratio is None else f"{100 * row.ratio:.3g} %"


def _label_tops(series: Sequence[Series]) -> tuple[Series, ...]:
    """Keep a label on the highest of the points that share it and their x: one name per column of points."""
    tops: dict[tuple[float, str], float] = {}
    for point in (point for line in series for point in line.points):
        key = (point.x, point.label)
        tops[key] = max(tops.get(key, point.y), point.y)

    def relabel(point: Point) -> Point:
        key = (point.x, point.label)
        if tops.get(key) != point.y:
            return replace(point, label="")
        del tops[key]
        return point

    return tuple(replace(line, points=tuple(relabel(point) for point in line.points)) for line in series)


def _legend(rows: Sequence[Row], lines: Mapping[str, Sequence[Row]]) -> tuple[LegendEntry, ...]:
    present = {stage for row in rows if row.is_pruned for stage in row.mAP}
    names = _unpruned_names(rows)
    entries = [
        LegendEntry(name, Style(colour, "circle"), shows_marker=False, shows_line=True)
        for colour, name in enumerate(lines)
    ]
    entries += [
        LegendEntry(words, Style(None, marker, is_dashed=is_dashed), shows_line=True)
        for stage, (marker, words, is_dashed) in _STAGES.items()
        if stage in present
    ]
    for variant, style, words in (
        (UNPRUNED, _UNPRUNED_STYLE, UNPRUNED),
        (CONTROL, _CONTROL_STYLE, "unpruned, trained on equally long"),
    ):
        if any(row.variant == variant and row.mAP for row in rows):
            entries.append(LegendEntry(words, style))
        entries += [
            LegendEntry(f"{names[id(row)]}: {words}, {', '.join(settings_in_words(row))}", style)
            for row in rows
            if row.variant == variant and row.settings and names[id(row)].endswith(")") and row.mAP
        ]
    return tuple(entries)


def _seeds(rows: Sequence[Row]) -> str:
    most = max(row.n_seeds for row in rows)
    return "one seed" if most == 1 else f"mean and standard deviation over up to {most} seeds"


def _shown(quoted: Iterable[QuotedRow]) -> list[QuotedRow]:
    """Return the rows that the figure names, those of one band together."""
    return sorted((row for row in quoted if row.figure_label), key=_shared)


def _shared(row: QuotedRow) -> tuple[str, float]:
    return row.dataset, row.clip_seconds or 0.0


def _quoted_band(dataset: str, clip_seconds: float, rows: Sequence[QuotedRow]) -> Band:
    families = list(dict.fromkeys(row.family for row in rows))
    costs: dict[str, Callable[[QuotedRow], int | None]] = {
        "Parameters": lambda row: row.n_params,
        f"MACs per {clip_seconds:g} s": lambda row: row.macs,
    }
    panels = []
    for x_label, cost in costs.items():
        series = []
        for colour, family in enumerate(families):
            style = Style(colour, _QUOTED_MARKERS[colour % len(_QUOTED_MARKERS)], is_hollow=True)
            points = tuple(
                Point(x, row.value, label=row.figure_label) for row in rows if row.family == family and (x := cost(row))
            )
            series += [Series(family, points, style)] if points else []
        panels.append(Panel(x_label, "mAP", tuple(series)))
    return Band(
        title=f"{dataset} (quoted, not measured here)",
        subtitle="As published, hollow marks; protocols and sources stand in the table of quoted rows",
        panels=tuple(panels),
        legend=(),
    )
