"""What the Pareto figures show: comparable results as series of points, with their looks, names and legend."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from epanns.reporting.figures import style as canvas
from epanns.reporting.front import pareto_front
from epanns.reporting.notation import in_words, short_layers
from epanns.reporting.quoted import QuotedRow
from epanns.reporting.rows import CONTROL, BlockKey, Row

_STAGES = {"recovered": "recovered (without labels)", "finetuned": "fine-tuned", "evaluated": "as evaluated"}
MANY_NAMES = 3  # more networks with a name beside their mark need room
_MOST_LINES = 14  # each marker twice; of more lines, those that reach a front keep their look
_MOST_LABELS = 60  # of more points, only the lines that reach a front, and there the points of the front, have labels

Look = dict[str, Any]  # properties of a matplotlib line
_RIM: Look = {"markeredgecolor": "white", "markeredgewidth": 0.5}
UNPRUNED_LOOK: Look = _RIM | {
    "color": canvas.BLACK,
    "linewidth": 0.9,
    "linestyle": "--",
    "marker": "*",
    "markersize": 8,
}
_CONTROL = UNPRUNED_LOOK | {"linestyle": ":", "marker": "P", "markersize": 6}
OTHER = UNPRUNED_LOOK | {"linestyle": "none", "marker": "d", "markersize": 5}
CROWD: Look = {"color": "#a6a6a6", "linestyle": "none", "marker": ".", "markersize": 3, "markeredgewidth": 0}
FRONT: Look = {"color": "#c2c2c2", "linewidth": 2.2, "solid_capstyle": "butt", "zorder": 1.2}


class Cost(NamedTuple):
    """A cost of networks: the label of its axis, ``{seconds}`` included, and its value in a row, None where unknown."""

    label: str
    of: Callable[[Row], float | None]


SIZE_AND_WORK = (
    Cost("parameters", lambda row: row.n_params),
    Cost("MACs per {seconds:g} s", lambda row: row.backbone_macs),
)
DEPLOYMENT = (
    Cost("bytes of parameters", lambda row: row.param_bytes),
    Cost("latency for {seconds:g} s, ms", lambda row: row.latency_ms),
)


class Point(NamedTuple):
    """One result: its costs (None where unknown), mAP, its standard deviation, and its label."""

    costs: tuple[float | None, ...]
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
        return self.look in (UNPRUNED_LOOK, _CONTROL)


@dataclass(frozen=True)
class Strip:
    """Points that share a height of the band: one panel for each cost; `height` in cm."""

    label: str
    height: float
    series: tuple[Series, ...]
    has_front: bool = False


@dataclass(frozen=True)
class Band:
    """Strips of one set of comparable results, side by side or, where `is_wide`, with one cost below the other.

    Attributes:
        x_labels: One for each cost of the points: two, or one in a wide band.
    """

    title: str
    remark: str
    x_labels: tuple[str, ...]
    strips: tuple[Strip, ...]
    legend: tuple[tuple[str, Look], ...]
    is_wide: bool = False


def measured_bands(blocks: Mapping[BlockKey, Sequence[Row]], costs: Sequence[Cost] = SIZE_AND_WORK) -> list[Band]:
    """Return one band per block: results of different data or protocols never share axes.

    Costs that no row of a block has are left out of its band.
    """
    bands = []
    for key, rows in blocks.items():
        known = [cost for cost in costs if any(cost.of(row) for row in rows)]
        bands.append(_measured_band(key, rows, known))
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


def _measured_band(key: BlockKey, rows: Sequence[Row], costs: Sequence[Cost]) -> Band:
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
    references, entries = _references(rows, pruned, costs)
    label = f"mAP {_STAGES[later[0]].partition(' (')[0]}" if len(later) == 1 else "mAP"
    lines, crowd = without_crowd(lines, stages, costs)
    main = [*_crowd(crowd, stages, costs), *references, *_series(lines, stages, costs, has_labels=bool(ratios))]
    strips = [Strip(label, 4.3, tuple(main), has_front=bool(pruned))]
    if later and (cut := (*_crowd(crowd, ["pruned"], costs), *_series(lines, ["pruned"], costs, has_labels=False))):
        strips.append(Strip("no recovery", 1.5, cut))
    legend = [(name, _look(number)) for number, name in enumerate(lines) if len(lines) + len(crowd) > 1]
    legend += [(f"{len(crowd):,} other rows, off the front", CROWD | {"markersize": 5})] if crowd else []
    if len(later) > 1:
        legend += [(_STAGES[stage], _look(0, is_faint=stage != later[-1]) | {"color": canvas.BLACK}) for stage in later]
    legend += entries
    legend += [("Pareto front", FRONT)] if pruned else []
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
        x_labels=tuple(cost.label.format(seconds=key.clip_seconds) for cost in costs),
        strips=tuple(strips),
        legend=tuple(legend),
        is_wide=len(costs) == 1
        or sum(bool(point.label) for series in references for point in series.points) > MANY_NAMES,
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


def without_crowd(
    lines: dict[str, list[Row]], stages: Sequence[str], costs: Sequence[Cost]
) -> tuple[dict[str, list[Row]], list[Row]]:
    """Return the lines with a look of their own, and the rows of the others: of many lines, those on no front."""
    if len(lines) <= _MOST_LINES:
        return lines, []
    named = [(name, row, _best(row, stages)) for name, members in lines.items() for row in members]
    reaching = set()
    for cost in costs:
        known = [(value, best, name) for name, row, best in named if (value := cost.of(row))]
        reaching |= {known[place][2] for place in pareto_front([(value, best) for value, best, _ in known])}
    kept = {name: members for name, members in lines.items() if name in reaching}
    return kept, [row for name, row, _ in named if name not in reaching]


def _best(row: Row, stages: Sequence[str]) -> float:
    return max((row.mAP[stage].mean for stage in stages if stage in row.mAP), default=0.0)


def _crowd(rows: Sequence[Row], stages: Sequence[str], costs: Sequence[Cost]) -> list[Series]:
    """Return one series of grey dots for rows without a look of their own, at the last of the stages."""
    points = [_point(row, stages[-1], "", costs) for row in rows if stages[-1] in row.mAP]
    return [Series("other rows", tuple(points), CROWD, is_faint=True)] if points else []


def _series(
    lines: Mapping[str, Sequence[Row]], stages: Sequence[str], costs: Sequence[Cost], *, has_labels: bool
) -> Iterator[Series]:
    """Yield a series for each line and stage.

    Of points with equal cost and label only the highest has the label, and of many points only those on a front.
    """
    rows = [row for members in lines.values() for row in members]
    if len(rows) > _MOST_LABELS:
        on_front = {
            place
            for cost in costs
            for place in pareto_front([(cost.of(row) or 0.0, _best(row, stages)) for row in rows])
        }
        rows = [row for place, row in enumerate(rows) if place in on_front]
    tops: dict[tuple[float, str], float] = {}
    for row in rows:
        place = (row.n_params, _ratio(row))
        tops[place] = max(tops.get(place, 0.0), _best(row, stages))
    for number, (name, members) in enumerate(lines.items()):
        for stage in stages:
            points = []
            for row in (row for row in members if stage in row.mAP):
                place = (row.n_params, _ratio(row))
                is_top = has_labels and tops.get(place) == row.mAP[stage].mean
                if is_top:
                    del tops[place]
                points.append(_point(row, stage, _ratio(row) if is_top else "", costs))
            is_faint = stage != stages[-1]
            if points:
                yield Series(name, tuple(points), _look(number, is_faint=is_faint), is_faint)


def _point(row: Row, stage: str, label: str, costs: Sequence[Cost]) -> Point:
    estimate = row.mAP[stage]
    return Point(tuple(cost.of(row) for cost in costs), estimate.mean, estimate.sd or 0.0, label)


def _ratio(row: Row) -> str:
    return "" if row.ratio is None else f"{100 * row.ratio:.3g} %"  # a budget is in the name of the series


def _look(number: int, *, is_faint: bool = False) -> Look:
    look: Look = {"color": f"C{number}", "marker": canvas.MARKERS[number % len(canvas.MARKERS)]}
    return look | ({"linestyle": ":", "markersize": 3, "alpha": 0.5, "markeredgewidth": 0} if is_faint else _RIM)


def _references(
    rows: Sequence[Row], pruned: Sequence[Row], costs: Sequence[Cost]
) -> tuple[list[Series], list[tuple[str, Look]]]:
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
        look = OTHER if not is_base else _CONTROL if row.variant == CONTROL else UNPRUNED_LOOK
        point = _point(row, next(iter(row.mAP)), "" if is_base and not difference else name, costs)
        references.append(Series(name, (point,), look))
    legend = []
    for look, text in ((UNPRUNED_LOOK, "unpruned{}"), (_CONTROL, "unpruned{}, fine-tuned equally long")):
        if found := [series.name for series in references if series.look == look]:
            legend.append((text.format(f" {found[0]}" if len(found) == 1 and found[0] else ""), look))
    if any(series.look == OTHER for series in references):
        legend.append(("other networks, unpruned" if legend else "unpruned", OTHER))
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
