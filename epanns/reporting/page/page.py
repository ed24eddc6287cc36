"""Put tables and charts together as one HTML page without references to other files, except links beside it."""

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template

from epanns.records import RunRecord
from epanns.reporting.page.charts import curve_chart, pareto_charts, run_chart, sensitivity_chart
from epanns.reporting.page.svg import text_of
from epanns.reporting.page.tables import Cell, agreement_table, class_table, html_table, measured_table
from epanns.reporting.quoted import NOTE, QuotedRow, quoted_cells
from epanns.reporting.rows import BlockKey, Row
from epanns.reporting.sources import Sources
from epanns.reporting.tables import footnotes
from epanns.sweeps.journal import Failure


def report_page(
    blocks: Mapping[BlockKey, Sequence[Row]],
    records: Sequence[RunRecord],
    *,
    failures: Sequence[Failure] = (),
    sources: Sources | None = None,
    quoted: Sequence[QuotedRow] = (),
    files: Sequence[str] = (),
) -> str:
    """Return the page.

    Every text of a record is escaped, and the page's policy lets no script run but its own.

    Args:
        blocks: Measured rows.
        records: The records of the rows.
        failures: Trials without a result.
        sources: Further results.
        quoted: Published rows.
        files: Names of files beside the page, which it links to.
    """
    by_trial = {record.trial_id: record for record in records}
    sections, first = [], 0
    for key, rows in blocks.items():
        sections.append(_block(key, rows, first, by_trial))
        first += len(rows)
    sections += [*_further(sources or Sources()), *_failed(failures), *_quoted(quoted)]
    titles = list(dict.fromkeys(key.dataset for key in blocks))
    style, script = _file("page.css"), _file("page.js")
    links = "".join(f'<li><a href="{text_of(name)}">{text_of(name)}</a></li>' for name in files)
    return Template(_file("page.html")).substitute(
        title=text_of(f"epanns report: {', '.join(titles)}" if titles else "epanns report"),
        summary=text_of(f"{len(records):,} run records, {first:,} configurations"),
        notes=f'<p class="note">{text_of(footnotes(blocks).replace("*", ""))}</p>' if blocks else "",
        links=f'<nav aria-label="Files"><ul class="links">{links}</ul></nav>' if files else "",
        sections="\n".join(sections),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _block(key: BlockKey, rows: Sequence[Row], first: int, records: Mapping[str, RunRecord]) -> str:
    """Return the section of comparable rows."""
    title = text_of(f"{key.dataset}, {key.split}")
    table, shared = measured_table(key, rows, first)
    curves = curve_chart(rows, first, records)
    return "\n".join(
        [
            f"<section><h2>{title}</h2>",
            f'<p class="note">{text_of("; ".join([f"{key.protocol}, {key.clip_seconds:g} s input", *shared]))}.</p>',
            pareto_charts(key, rows, first),
            table,
            f'<h3>Learning curves</h3><div class="charts">{curves}</div>' if curves else "",
            "</section>",
        ]
    )


def _further(sources: Sources) -> list[str]:
    """Return the sections of results beside run records."""
    sections = []
    for name, table in sources.sensitivities:
        heading = f"<h2>Sensitivity of layers: {text_of(name)}</h2>"
        remark = f'<p class="note">One layer pruned at a time; unpruned mAP {table.dense.mAP:.4f}.</p>'
        legend = '<ul class="legend"><li><svg class="sample ramp" viewBox="0 0 60 8" aria-hidden="true">'
        legend += "".join(f'<path class="line d{n}" d="M{6 * n} 4h6"/>' for n in range(10))
        legend += "</svg>first to last layer</li></ul>"
        sections.append(
            f'<section>{heading}{remark}<div class="charts">{sensitivity_chart(table)}</div>{legend}</section>'
        )
    if sources.curves:
        chart = run_chart(sources.curves)
        sections.append(f'<section><h2>Training runs</h2><div class="charts">{chart}</div></section>')
    if sources.classes:
        sections.append(f"<section><h2>Average precision by class</h2>{class_table(sources.classes)}</section>")
    if sources.agreements:
        heading = "<h2>Agreement with the unpruned network</h2>"
        sections.append(f"<section>{heading}{agreement_table(sources.agreements)}</section>")
    return sections


def _failed(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    reasons = Counter(failure.reason for failure in failures).most_common()
    items = "".join(f"<li>{count:,}: {text_of(reason)}</li>" for reason, count in reasons)
    heading = f"<h2>Trials without a result</h2><p>They are in no row: {len(failures):,}.</p>"
    return [f"<section>{heading}<ul>{items}</ul></section>"]


def _quoted(rows: Sequence[QuotedRow]) -> list[str]:
    """Return one section per data set and metric of the published rows."""
    groups: dict[tuple[str, str], list[QuotedRow]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.metric), []).append(row)
    sections = []
    for (dataset, metric), members in groups.items():
        columns = quoted_cells(metric, members)
        numbers = {metric: "value", "mAUC": "mAUC", "d'": "d_prime", "Parameters": "n_params", "MB": "param_bytes"}
        body = [
            [
                Cell(cell(row), getattr(row, numbers[name]) if name in numbers else None)
                for name, cell in columns.items()
            ]
            for row in members
        ]
        title = f"{dataset}, {metric} (quoted, not measured here)"
        table = html_table(title, list(columns), body, numbers=set(numbers) | {"MACs"})
        sections.append(f'<section><h2>{text_of(title)}</h2><p class="note">{text_of(NOTE)}</p>{table}</section>')
    return sections


@functools.cache
def _file(name: str) -> str:
    return (resources.files("epanns") / "reporting" / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the digest by which the page's policy admits its own style and script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
