"""Published results of others, with source and protocol: quoted, never measured here."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from epanns.reporting.notation import MISSING, csv_text, escaped, markdown_table, megabytes, si, without_empty
from epanns.text_files import as_table, csv_rows_of

NOTE = (
    "Published by others on other data or under other protocols; not measured here and not to be ranked with the "
    "measured rows."
)


@dataclass(frozen=True)
class QuotedRow:
    """One published result; unknown values are None or empty.

    Attributes:
        family: Group that published it.
        value: The `metric` as published.
        mAUC: Mean over classes of the area under the ROC curve, as published.
        d_prime: As published.
        param_bytes: 4 per parameter, or the published file size of a quantised network.
        macs: Multiply-adds for `clip_seconds` of sound, counted by `macs_convention`.
        clip_seconds: Length of the network's input.
        protocol: Data split, windows, and how the result was selected.
        source: Publication, and the place in it.
        figure_label: Label in the figure; empty for rows of the table alone.
    """

    name: str
    family: str
    dataset: str
    metric: str
    value: float
    mAUC: float | None  # noqa: N815
    d_prime: float | None
    n_params: int | None
    param_bytes: int | None
    macs: int | None
    macs_convention: str
    clip_seconds: float | None
    protocol: str
    source: str
    note: str
    figure_label: str


@functools.cache
def quoted_rows() -> tuple[QuotedRow, ...]:
    """Return the published rows, in the order of the file."""
    text = (resources.files("epanns") / "reporting" / "quoted.csv").read_text(encoding="utf-8")
    _, rows = as_table(csv_rows_of(text, "quoted.csv"), "quoted.csv")
    counts, numbers = ("n_params", "param_bytes", "macs"), ("mAUC", "d_prime", "clip_seconds")
    found = []
    for row in rows:
        values: dict[str, Any] = row | {"value": float(row["value"])}
        values |= {name: int(row[name]) if row[name] else None for name in counts}
        values |= {name: float(row[name]) if row[name] else None for name in numbers}
        found.append(QuotedRow(**values))
    return tuple(found)


def quoted_markdown(rows: Iterable[QuotedRow]) -> str:
    """Return a Markdown table of quoted rows for each data set and metric, with source and protocol of each row."""
    tables: dict[tuple[str, str], list[QuotedRow]] = {}
    for row in rows:
        tables.setdefault((row.dataset, row.metric), []).append(row)
    parts = []
    for (dataset, metric), members in tables.items():
        columns = quoted_cells(metric, members)
        body = [[escaped(cell(row)) for cell in columns.values()] for row in members]
        title = f"**{escaped(dataset)}, {escaped(metric)}** (quoted, not measured here)"
        parts.append(f"{title}\n\n{markdown_table(list(columns), body)}")
    return "\n\n".join([*parts, NOTE]) + "\n"


def quoted_cells(metric: str, rows: Sequence[QuotedRow]) -> dict[str, Callable[[QuotedRow], str]]:
    """Return heading -> cell of the columns that rows of one metric have."""
    cells: dict[str, Callable[[QuotedRow], str]] = {
        "System": lambda row: row.name,
        metric: lambda row: f"{row.value:.4g}",
        "mAUC": lambda row: MISSING if row.mAUC is None else f"{row.mAUC:.3f}",
        "d'": lambda row: MISSING if row.d_prime is None else f"{row.d_prime:.3f}",
        "Parameters": lambda row: si(row.n_params),
        "MB": lambda row: megabytes(row.param_bytes),
        "MACs": lambda row: (
            MISSING if row.macs is None else f"{si(row.macs)} per {row.clip_seconds:g} s ({row.macs_convention})"
        ),
        "Protocol": lambda row: row.protocol,
        "Source": lambda row: row.source,
        "Note": lambda row: row.note or MISSING,
    }
    return without_empty(cells, rows)


def quoted_csv(rows: Iterable[QuotedRow]) -> str:
    """Return the quoted rows as CSV, one column per attribute."""
    return csv_text([vars(row) for row in rows])
