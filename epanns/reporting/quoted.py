"""Published results of others, as data with source and protocol. They are quoted, never measured here."""

import functools
from dataclasses import dataclass
from importlib import resources

from epanns.csv_table import as_table, csv_rows_of


@dataclass(frozen=True)
class QuotedRow:
    """One published result; what is not known of it is None or empty.

    Attributes:
        family: Whose networks it belongs to.
        value: The `metric` as published.
        mAUC: Mean over classes of the area under the ROC curve, as published.
        d_prime: As published.
        param_bytes: 4 per parameter, or the published file size where the network is quantised.
        macs: Multiply-adds for `clip_seconds` of sound in the named convention.
        clip_seconds: What the network hears at once.
        protocol: Data split, windows and how the result was chosen.
        source: Publication and where in it.
        figure_label: Its name in the figure; empty for rows that stand in the table alone.
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
    return tuple(map(_row, rows))


def _row(values: dict[str, str]) -> QuotedRow:
    def count(name: str) -> int | None:
        return int(values[name]) if values[name] else None

    def number(name: str) -> float | None:
        return float(values[name]) if values[name] else None

    return QuotedRow(
        name=values["name"],
        family=values["family"],
        dataset=values["dataset"],
        metric=values["metric"],
        value=float(values["value"]),
        mAUC=number("mAUC"),
        d_prime=number("d_prime"),
        n_params=count("n_params"),
        param_bytes=count("param_bytes"),
        macs=count("macs"),
        macs_convention=values["macs_convention"],
        clip_seconds=number("clip_seconds"),
        protocol=values["protocol"],
        source=values["source"],
        note=values["note"],
        figure_label=values["figure_label"],
    )
