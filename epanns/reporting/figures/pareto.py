"""The main figure of a report: mAP against parameters and against multiply-adds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any, NamedTuple

from epanns.reporting.figures import style as canvas
from epanns.reporting.notation import in_words, short_layers
from epanns.reporting.quoted import QuotedRow
from epanns.reporting.rows import CONTROL, BlockKey, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STAGES = {"recovered": "recovered (without labels)", "finetuned": "fine-tuned", "evaluated": "as evaluated"}
_MANY_NAMES = 3  # more networks with a name beside their mark need panels as wide as the figure

_LEFT, _RIGHT, _GAP = 1.3, 0.2, 0.3  # cm: margins, and the gap between panels
_HALF = (canvas.COLUMN - _LEFT - _RIGHT - _GAP) / 2
_X_LABELS = 0.95  # cm: room for ticks and label below a panel

Look = dict[str, Any]  # properties of a matplotlib line
_RIM: Look = {"markeredgecolor": "white", "markeredgewidth": 0.5}
_UNPRUNED: Look = _RIM | {"color": canvas.BLACK, "linewidth": 0.9, "linestyle": "--", "marker": "*", "markersize": 8}
_CONTROL = _UNPRUNED | {"linestyle": ":", "marker": "P", "markersize": 6}
_OTHER = _UNPRUNED | {"linestyle": "none", "marker": "d", "markersize": 5}
_FRONT: Look = {"color": "#c2c2c2", "linewidth": 2.2, "solid_capstyle": "butt", "zorder": 1.2}


class Point(NamedTuple):
    """One result: parameters and multiply-adds (None where unknown), mAP, its standard deviation, and its label."""

    costs: tuple[float | None, float | None]
    mean: float
    sd: float = 0.0
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one look, joined by rising cost; `is_faint` marks a stage before the last."""

    name: str
    points: tuple[Point, ...]
    look: Look
    is_faint: bool = False

    @property
    def is_reference(self) -> bool:
        """Whether it is an unpruned network with a line across the panel."""
        return self.look in (_UNPRUNED, _CONTROL)


@dataclass(frozen=True)
class Strip:
    """Points that share a height of the band: one panel for each cost; `height` in cm."""

    label: str
    height: float
    series: tuple[Series, ...]
    has_front: bool = False


@dataclass(frozen=True)
class Band:
    """Strips of one set of comparable results, side by side or, where `is_wide`, with one cost below the other."""

    title: str
    remark: str
    x_labels: tuple[str, str]
    strips: tuple[Strip, ...]
    legend: tuple[tuple[str, Look], ...]
    is_wide: bool = False


def measured_bands(blocks: Mapping[BlockKey, Sequence[Row]]) -> list[Band]:
    """Return one band per block: results of different data or protocols never share axes."""
    bands = [_measured_band(key, rows) for key, rows in blocks.items()]
    return [band for band in bands if band.strips[0].series]


def quoted_bands(rows: Sequence[QuotedRow]) -> list[Band]:
    """Return one band per data set of the quoted results that have a label for the figure."""

    def data_of(row: QuotedRow) -> tuple[str, float]:
        return row.dataset, row.clip_seconds or 0.0

    named = sorted((row for row in rows if row.figure_label), key=data_of)
    bands = []
    for (dataset, clip_seconds), members in groupby(named, key=data_of):
        families: dict[str, list[Point]] = {}
        for row in members:
            point = Point((row.n_params, row.macs), row.value, label=row.figure_label)
            families.setdefault(row.family, []).append(point)
        series = []
        for number, (family, points) in enumerate(families.items()):
            hollow = {"linestyle": "none", "markerfacecolor": "white", "markeredgewidth": 1.0}
            series.append(Series(family, tuple(points), _look(number) | hollow | {"markeredgecolor": f"C{number}"}))
        band = Band(
            title=f"{dataset} (quoted, not measured here)",
            remark="as published; protocols differ, see the table of quoted results",
            x_labels=("parameters", f"MACs per {clip_seconds:g} s"),
            strips=(Strip("mAP", 3.6, tuple(series)),),
            legend=tuple((line.name, line.look) for line in series),
            is_wide=True,
        )
        bands.append(band)
    return bands


def _measured_band(key: BlockKey, rows: Sequence[Row]) -> Band:
    pruned = [row for row in rows if row.is_pruned]
    names, shared = series_names(pruned)
    ratios = {_ratio(row) for row in pruned} - {""}
    if len(ratios) == 1:
        shared = f"{shared}, {ratios.pop()} of filters removed"
    lines: dict[str, list[Row]] = {}
    for name, row in zip(names, pruned, strict=True):
        lines.setdefault(name, []).append(row)
    later = [stage for stage in _STAGES if any(stage in row.mAP for row in pruned)]
    stages = later or ["pruned"]
    references, entries = _references(rows, pruned)
    label = f"mAP {_STAGES[later[0]].partition(' (')[0]}" if len(later) == 1 else "mAP"
    main = [*references, *_series(lines, stages, has_labels=bool(ratios))]
    strips = [Strip(label, 4.3, tuple(main), has_front=bool(pruned))]
    if later and (cut := tuple(_series(lines, ["pruned"], has_labels=False))):
        strips.append(Strip("no recovery", 1.5, cut))
    legend = [(name, _look(number)) for number, name in enumerate(lines) if len(lines) > 1]
    if len(later) > 1:
        legend += [(_STAGES[stage], _look(0, is_faint=stage != later[-1]) | {"color": canvas.BLACK}) for stage in later]
    legend += entries
    legend += [("Pareto front", _FRONT)] if pruned else []
    seeds = max(row.n_seeds for row in rows)
    remarks = [
        shared,
        f"{key.protocol}, {key.clip_seconds:g} s input",
        "one seed" if seeds == 1 else f"mean ± sd of {seeds} seeds",
        "labels: filters removed" if ratios else "",
    ]
    return Band(
        title=f"{key.dataset}, {key.split}",
        remark="; ".join(remark for remark in remarks if remark),
        x_labels=("parameters", f"MACs per {key.clip_seconds:g} s"),
        strips=tuple(strips),
        legend=tuple(legend),
        is_wide=sum(bool(point.label) for series in references for point in series.points) > _MANY_NAMES,
    )


def series_names(rows: Sequence[Row]) -> tuple[list[str], str]:
    """Return for each pruned row the settings in which the rows differ, apart from the ratio, and those they share."""
    facets = []
    for row in rows:
        found = {
            "network": f"{row.name} ({row.network})" if row.name else row.network,
            "criterion": row.variant,
            "layers": short_layers(row.layers),
            "budget": "" if row.budget is None else f"budget of {row.budget}",
            "recovery": "no recovery" if row.recover == "none" else row.recover,
            "fine-tuning": f"{row.finetune_iterations:,} iterations" if row.finetune_iterations else "no fine-tuning",
        }
        settings = {setting.partition("=")[0]: in_words(setting) for setting in row.settings}
        settings.pop("budget", None)
        if "ratios" in settings:  # they name the layers
            found["layers"] = settings.pop("ratios").removeprefix("ratios ")
        facets.append(found | settings)
    names = list(dict.fromkeys(name for found in facets for name in found))
    differing = [name for name in names if len({found.get(name) for found in facets}) > 1]
    texts = [", ".join(found[name] for name in differing if found.get(name)) for found in facets]
    return texts, ", ".join(facets[0][name] for name in names if name not in differing and facets[0][name])


def _series(lines: Mapping[str, Sequence[Row]], stages: Sequence[str], *, has_labels: bool) -> Iterator[Series]:
    """Yield a series for each line and stage; of points with equal cost and label only the highest has the label."""
    tops: dict[tuple[float, str], float] = {}
    for row in (row for members in lines.values() for row in members):
        place = (row.n_params, _ratio(row))
        tops[place] = max([tops.get(place, 0.0), *(row.mAP[stage].mean for stage in stages if stage in row.mAP)])
    for number, (name, members) in enumerate(lines.items()):
        for stage in stages:
            points = []
            for row in (row for row in members if stage in row.mAP):
                place = (row.n_params, _ratio(row))
                is_top = has_labels and tops.get(place) == row.mAP[stage].mean
                if is_top:
                    del tops[place]
                points.append(_point(row, stage, _ratio(row) if is_top else ""))
            is_faint = stage != stages[-1]
            if points:
                yield Series(name, tuple(points), _look(number, is_faint=is_faint), is_faint)


def _point(row: Row, stage: str, label: str) -> Point:
    estimate = row.mAP[stage]
    return Point((row.n_params, row.backbone_macs), estimate.mean, estimate.sd or 0.0, label)


def _ratio(row: Row) -> str:
    return "" if row.ratio is None else f"{100 * row.ratio:.3g} %"  # a budget is in the name of the series


def _look(number: int, *, is_faint: bool = False) -> Look:
    look: Look = {"color": f"C{number}", "marker": canvas.MARKERS[number % len(canvas.MARKERS)]}
    return look | ({"linestyle": ":", "markersize": 3, "alpha": 0.5, "markeredgewidth": 0} if is_faint else _RIM)


def _references(rows: Sequence[Row], pruned: Sequence[Row]) -> tuple[list[Series], list[tuple[str, Look]]]:
    """Return the unpruned networks and their legend; those with a pruned network in the figure have a line across it.

    No two networks have the same name: networks of one name have a setting added in which they differ. Where a name is
    needed nowhere, it is empty.
    """
    unpruned = [row for row in rows if not row.is_pruned and row.mAP]
    alike: dict[tuple[str, str, str], list[Row]] = {}
    for row in unpruned:
        alike.setdefault((row.variant, row.name, row.network), []).append(row)
    is_alone = len({(row.name, row.network) for row in rows}) == 1
    references = []
    for row in unpruned:
        of_one_name = alike[row.variant, row.name, row.network]
        difference = _differences(of_one_name)[of_one_name.index(row)]
        name = f"{'' if is_alone else row.name or row.network} {difference}".strip()
        is_base = any(
            (row.experiment, row.model, row.width, row.name) == (cut.experiment, cut.model, cut.width, cut.name)
            and row.finetune_iterations in (0, cut.finetune_iterations)
            and set(row.settings) <= set(cut.settings)
            for cut in pruned
        )
        look = _OTHER if not is_base else _CONTROL if row.variant == CONTROL else _UNPRUNED
        point = _point(row, next(iter(row.mAP)), "" if is_base and not difference else name)
        references.append(Series(name, (point,), look))
    legend = []
    for look, text in ((_UNPRUNED, "unpruned{}"), (_CONTROL, "unpruned{}, fine-tuned equally long")):
        if found := [series.name for series in references if series.look == look]:
            legend.append((text.format(f" {found[0]}" if len(found) == 1 and found[0] else ""), look))
    if any(series.look == _OTHER for series in references):
        legend.append(("other networks, unpruned" if legend else "unpruned", _OTHER))
    return references, legend


def _differences(rows: Sequence[Row]) -> list[str]:
    """Return for each of several rows the shortest setting that is different in every row, or else a number."""
    if len(rows) == 1:
        return [""]
    settings = [dict(setting.split("=", 1) for setting in row.settings) for row in rows]
    choices = []
    for name in {name for found in settings for name in found}:
        if name == "base.yamnet_sha256":
            values = ["pretrained" if name in found else "not pretrained" for found in settings]
        else:
            short = name.rpartition(".")[2]
            values = [in_words(f"{short}={found[name]}") if name in found else f"no {short}" for found in settings]
        if len(set(values)) == len(rows):
            choices.append((name != "base.yamnet_sha256", max(map(len, values)), values))
    return min(choices)[2] if choices else [f"({number})" for number in range(1, len(rows) + 1)]


@canvas.paper_style()
def pareto_figure(bands: Sequence[Band]) -> "Figure":
    """Draw the bands below each other."""
    from matplotlib.lines import Line2D

    width = canvas.COLUMN - 2 * _RIGHT
    heads = [canvas.Heading(band.title, band.remark, width) for band in bands]
    legends = [canvas.Legend([(Line2D([], [], **look), text) for text, look in band.legend], width) for band in bands]
    panels = [_panels_height(band) for band in bands]
    figure = canvas.new_figure(
        sum(heads[i].height + panels[i] + legends[i].height + 0.4 for i in range(len(bands))) + 0.1
    )
    top = 0.1
    for band, head, legend, height in zip(bands, heads, legends, panels, strict=True):
        head.draw(figure, _RIGHT, top)
        _draw_panels(figure, band, top + head.height)
        legend.draw(figure, _RIGHT, top + head.height + height)
        top += head.height + height + legend.height + 0.4
    return figure


def _panels_height(band: Band) -> float:
    height = sum(strip.height for strip in band.strips) + _GAP / 2 * (len(band.strips) - 1) + _X_LABELS
    return 2 * height if band.is_wide else height


def _draw_panels(figure: "Figure", band: Band, top: float) -> None:
    width = 2 * _HALF + _GAP if band.is_wide else _HALF
    for column, x_label in enumerate(band.x_labels):
        points = [point for strip in band.strips for series in strip.series for point in series.points]
        costs = [cost for point in points if (cost := point.costs[column])]
        y = top + (column * _panels_height(band) / 2 if band.is_wide else 0)
        left = _LEFT + (0 if band.is_wide else column * (_HALF + _GAP))
        for strip in band.strips if costs else ():
            axes = canvas.add_axes(figure, left, y, width, strip.height)
            has_y_labels = band.is_wide or column == 0
            is_last = strip is band.strips[-1]
            low, high = canvas.set_log_axis(axes, costs, width)
            _draw_strip(axes, strip, column, (low, high), (high / low) ** (0.075 / width))
            axes.tick_params(labelleft=has_y_labels, labelbottom=is_last)
            axes.set_xlabel(x_label if is_last else "")
            axes.set_ylabel(strip.label if has_y_labels else "")
            axes.yaxis.set_label_coords(-0.92 / width, 0.5)
            y += strip.height + _GAP / 2


def _draw_strip(axes: "Axes", strip: Strip, column: int, limits: tuple[float, float], gap: float) -> None:
    """Draw one panel; points whose bars would overlap are drawn a factor `gap` apart."""
    ends = [
        min(max(point.mean + side * (0 if series.is_faint else point.sd), 0.0), 1.0)
        for series in strip.series
        for point in series.points
        for side in (-1, 1)
    ]
    room = 0.08 * max(max(ends) - min(ends), 0.02)
    names = sum(bool(point.label) for series in strip.series if series.look == _OTHER for point in series.points)
    above = (4 if names > _MANY_NAMES else 2 if strip.has_front else 1) * room  # names of networks need room
    axes.set_ylim(max(min(ends) - room, -0.02), min(max(ends) + above, 1 + max(room, above / 2)))
    axes.locator_params(axis="y", nbins=6 if strip.height > 2 else 3, steps=[1, 2, 5, 10])
    axes.set_yticks([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= min(axes.get_ylim()[1], 1.0)])
    labels, front = canvas.Labels(axes), list[tuple[float, float]]()
    for series, marks in zip(strip.series, _placed(strip, column, gap), strict=True):
        xs = [mark.x for mark in marks]
        means, sds = [mark.point.mean for mark in marks], [mark.point.sd for mark in marks]
        look, has_bars = series.look, any(sds) and not series.is_faint
        if series.is_reference:
            line = {name: look[name] for name in ("color", "linewidth", "linestyle")}
            axes.axhline(means[0], **line, zorder=1.5)
            labels.keep_off(*((x, means[0]) for x in limits))
            look = look | {"linestyle": "none"}
        if series.look == _UNPRUNED:  # the deviation as a band instead of a bar
            axes.axhspan(means[0] - sds[0], means[0] + sds[0], color="black", alpha=0.07, linewidth=0, zorder=0.5)
            has_bars = False
        axes.errorbar(xs, means, sds if has_bars else None, elinewidth=0.7, zorder=3, **look)
        labels.keep_off(*zip(xs, means, strict=True), has_marks=True)
        for x, mean, sd, mark in zip(xs, means, sds, marks, strict=True):
            labels.keep_off((x, mean - sd * has_bars), (x, mean + sd * has_bars))
            labels.add(x, mean, mark.point.label)
        front += [] if series.is_faint else zip(xs, means, strict=True)
    if strip.has_front:
        steps: list[tuple[float, float]] = []
        for cost, mean in sorted(front, key=lambda place: (place[0], -place[1])):
            if not steps or mean > steps[-1][1]:
                steps.append((cost, mean))
        steps.append((limits[1], steps[-1][1]))
        axes.step(*zip(*steps, strict=True), where="post", **_FRONT)
        labels.keep_off(
            *(corner for (x0, y0), (x1, y1) in pairwise(steps) for corner in ((x0, y0), (x1, y0), (x1, y1)))
        )
    labels.place()


@dataclass
class _Mark:
    """A point and the x at which it is drawn."""

    x: float
    point: Point


def _placed(strip: Strip, column: int, gap: float) -> list[list[_Mark]]:
    """Return the marks of each series by rising cost; marks whose bars would overlap are set a factor `gap` apart."""
    placed = [[_Mark(x, point) for point in series.points if (x := point.costs[column])] for series in strip.series]
    solid = [mark for series, marks in zip(strip.series, placed, strict=True) if not series.is_faint for mark in marks]
    clusters: list[list[_Mark]] = []
    for mark in sorted(solid, key=lambda mark: mark.x):
        for cluster in clusters:
            if any(
                mark.x < gap * other.x
                and abs(mark.point.mean - other.point.mean) <= mark.point.sd + other.point.sd + 0.01
                for other in cluster
            ):
                cluster.append(mark)
                break
        else:
            clusters.append([mark])
    for cluster in clusters:
        middle = geometric_mean([mark.x for mark in cluster])
        for index, mark in enumerate(cluster):
            mark.x = middle * gap ** (index - (len(cluster) - 1) / 2)
    return [sorted(marks, key=lambda mark: mark.x) for marks in placed]
