"""The charts of the page: Pareto fronts, learning curves and sensitivities."""

from collections.abc import Mapping, Sequence

from epanns.pruning.budgets.sensitivity_table import Sensitivity
from epanns.records import RunRecord
from epanns.reporting.figures.bands import DEPLOYMENT, SIZE_AND_WORK, Cost, series_names, without_crowd
from epanns.reporting.figures.learning_curve import Curve
from epanns.reporting.front import pareto_front
from epanns.reporting.notation import si, three_digits
from epanns.reporting.outcome import STAGE_WORDS, STAGES, mean_curve, name_of, result_of
from epanns.reporting.page.svg import MARKS, N_COLOURS, STAR, Axis, Chart, sample, text_of
from epanns.reporting.rows import CONTROL, UNPRUNED, BlockKey, Estimate, Row

_MOST_CURVES = 24
_DEPTHS = 10  # colours of layers, from the first to the last
_REFERENCES = {UNPRUNED: STAR, CONTROL: MARKS[5]}


def pareto_charts(key: BlockKey, rows: Sequence[Row], first: int) -> str:
    """Return a chart of mAP against each cost that rows have, and their legend; rows are numbered from `first`."""
    scored = [(number, row, *found) for number, row in enumerate(rows, first) if (found := result_of(row)) is not None]
    costs = _costs_of(rows)
    looks, legend = row_looks(rows, first)
    charts = [_pareto_chart(key, cost, scored, looks) for cost in costs] if scored else []
    figures = "".join(f'<figure class="chart">{chart}</figure>' for chart in charts)
    items = "".join(f"<li>{mark}{text_of(text)}</li>" for mark, text in legend)
    return f'<div class="charts">{figures}</div><ul class="legend">{items}</ul>' if charts else ""


def _costs_of(rows: Sequence[Row]) -> list[Cost]:
    return [cost for cost in (*SIZE_AND_WORK, *DEPLOYMENT) if any(cost.of(row) for row in rows)]


def row_looks(rows: Sequence[Row], first: int) -> tuple[dict[int, tuple[str, str]], list[tuple[str, str]]]:
    """Return the mark and the class of each row by its number, and the legend: samples and texts."""
    pruned = [row for row in rows if row.is_pruned]
    names, shared = series_names(pruned)
    lines: dict[str, list[Row]] = {}
    for name, row in zip(names, pruned, strict=True):
        lines.setdefault(name, []).append(row)
    kept, crowd = without_crowd(lines, STAGES, _costs_of(rows))
    look_of_line = {name: (MARKS[n % len(MARKS)], f"c{n % N_COLOURS}") for n, name in enumerate(kept)}
    look_of = {id(row): look_of_line[name] for name, members in kept.items() for row in members}
    looks = {}
    for number, row in enumerate(rows, first):
        other = (MARKS[0], "crowd") if row.is_pruned else (_REFERENCES[row.variant], "reference")
        looks[number] = look_of.get(id(row), other)
    legend = [(sample(*look_of_line[name]), name or shared) for name in kept]
    legend += [(sample(MARKS[0], "crowd"), f"{len(crowd):,} other rows, off the front")] if crowd else []
    legend += [
        (sample(shape, "reference"), variant)
        for variant, shape in _REFERENCES.items()
        if any(row.variant == variant for row in rows)
    ]
    return looks, [*legend, (sample("M-8 0H8", "front-sample"), "Pareto front")]


def _pareto_chart(
    key: BlockKey,
    cost: Cost,
    scored: Sequence[tuple[int, Row, str, Estimate]],
    looks: Mapping[int, tuple[str, str]],
) -> str:
    known = [
        (number, row, value, estimate, stage) for number, row, stage, estimate in scored if (value := cost.of(row))
    ]
    label = cost.label.format(seconds=key.clip_seconds)
    x = Axis.around(label, [value for _, _, value, _, _ in known], is_log=True)
    ends = [estimate.mean + side * (estimate.sd or 0.0) for *_, estimate, _ in known for side in (-1, 1)]
    chart = Chart(f"mAP against {label}", x, Axis.around("mAP", [min(max(end, 0.0), 1.0) for end in ends]))
    points = [(value, estimate.mean) for _, _, value, estimate, _ in known]
    on_front = pareto_front(points)
    lines: dict[str, list[tuple[float, float]]] = {}
    for number, row, value, estimate, _ in known:
        if row.is_pruned and looks[number][1] != "crowd":
            lines.setdefault("|".join(looks[number]), []).append((value, estimate.mean))
        elif row.variant == UNPRUNED and len([each for each in known if not each[1].is_pruned]) <= 2:
            chart.level(estimate.mean, "unpruned")
    for look, places in lines.items():
        chart.line(sorted(places), f"series {look.partition('|')[2]}")
    chart.step([points[place] for place in on_front])
    order = sorted(range(len(known)), key=lambda place: looks[known[place][0]][1] != "crowd")
    for place in order:
        number, row, value, estimate, stage = known[place]
        shape, look = looks[number]
        chart.mark(
            (value, estimate.mean),
            shape,
            f"{look}{' on-front' if place in on_front else ''}",
            _tooltip(row, stage, estimate),
            row=number,
            sd=0.0 if look == "crowd" else estimate.sd or 0.0,
        )
    return chart.to_svg()


def _tooltip(row: Row, stage: str, estimate: Estimate) -> str:
    spread = "" if estimate.sd is None else f" ± {estimate.sd:.4f}"
    costs = [f"{si(row.n_params)} parameters", f"{si(row.backbone_macs)} MACs"]
    costs += [] if row.latency_ms is None else [f"{three_digits(row.latency_ms)} ms"]
    more = f" and {len(row.trials) - 3} more" if len(row.trials) > 3 else ""
    trials = f"trial{'s' if len(row.trials) > 1 else ''} {', '.join(row.trials[:3])}{more}"
    return "\n".join([name_of(row), f"mAP {estimate.mean:.4f}{spread}, {STAGE_WORDS[stage]}", ", ".join(costs), trials])


def curve_chart(rows: Sequence[Row], first: int, records: Mapping[str, RunRecord]) -> str:
    """Return the validation scores of fine-tuning against the step, a mean over seeds for each row.

    Of many rows, those with the highest result are drawn. The text is empty where no row has a curve.
    """
    curves, (looks, _) = [], row_looks(rows, first)
    for number, row in enumerate(rows, first):
        if points := mean_curve(row, records):
            curves.append((number, row, points))
    curves.sort(key=lambda curve: -(found[1].mean if (found := result_of(curve[1])) else 0.0))
    shown = curves[:_MOST_CURVES]
    if not shown:
        return ""
    places = [place for _, _, points in shown for place in points]
    x, y = Axis.around("step", [x for x, _ in places]), Axis.around("validation score", [y for _, y in places])
    chart = Chart("Validation score against the step of fine-tuning", x, y)
    for number, row, points in shown[::-1]:
        chart.curve(
            points,
            looks[number][1],
            f"{name_of(row)}\n{points[-1][1]:.4f} at step {points[-1][0]:,.0f}",
            row=number,
        )
    left_out = f"; the best {len(shown)} of {len(curves):,} rows" if len(shown) < len(curves) else ""
    caption = f"<figcaption>Fine-tuning, mean over seeds; colours as above{left_out}.</figcaption>"
    return f'<figure class="chart">{caption}{chart.to_svg()}</figure>'


def run_chart(curves: Sequence[Curve]) -> str:
    """Return the validation scores of training runs against the step."""
    shown = curves[:_MOST_CURVES]
    places = [place for curve in shown for place in curve.scores]
    x, y = Axis.around("step", [x for x, _ in places]), Axis.around("validation score", [y for _, y in places])
    chart = Chart("Validation score of training runs against the step", x, y)
    for place, curve in enumerate(shown):
        title = f"{curve.name}: {curve.network}\n{curve.score} {curve.summary}"
        chart.curve(curve.scores, f"c{place % N_COLOURS}", title)
    left_out = f"<figcaption>{len(shown)} of {len(curves):,} runs.</figcaption>" if len(shown) < len(curves) else ""
    return f'<figure class="chart">{left_out}{chart.to_svg()}</figure>'


def sensitivity_chart(table: Sensitivity) -> str:
    """Return the loss of mAP against the ratio, a line for each layer."""
    losses = [table.loss_of(row) for row in table.rows]
    x = Axis.around("filters removed, %", [0, *(100 * ratio for ratio in table.ratios)])
    chart = Chart("Loss of mAP with one layer pruned at a time", x, Axis.around("loss of mAP", [0.0, *losses]))
    chart.level(0.0, "unpruned")
    last = max(1, len(table.layers) - 1)
    for place, layer in enumerate(table.layers):
        points = [(0.0, 0.0), *((100 * row.ratio, table.loss_of(row)) for row in table.of(layer))]
        title = f"{layer}\n" + ", ".join(f"{x:g} %: {y:.4f}" for x, y in points[1:])
        chart.curve(points, f"d{round((_DEPTHS - 1) * place / last)}", title)
    return f'<figure class="chart">{chart.to_svg()}</figure>'
