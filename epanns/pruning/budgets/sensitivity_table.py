"""Sensitivity of mAP to pruning each layer alone: the table, its CSV file, and the record of the measurement.

It is measured by `epanns.stages.sensitivity`.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from epanns.errors import PruningError
from epanns.strict import SHA256
from epanns.text_files import SHORT_LIST, read_csv_table

COLUMNS = ("layer", "ratio", "width", "mAP", "loss_of_mAP", "n_params", "backbone_macs", "network")
_DECIMALS = 6
_TABLE = replace(SHORT_LIST, error=PruningError, remedy="give the folder's sensitivity.csv")


@dataclass(frozen=True)
class SensitivityRow:
    """The network with one layer pruned.

    Attributes:
        layer: Lead layer of the removed channels; empty for the unpruned network.
        ratio: Requested fraction of its channels to remove, in (0, 1); 0 for the unpruned network.
        width: Channels kept; None for the unpruned network.
        mAP: In [0, 1], on the validation clips.
        n_params: Of the whole network.
        backbone_macs: Of the whole network, for one validation clip.
    """

    layer: str
    ratio: float
    width: int | None
    mAP: float  # noqa: N815
    n_params: int
    backbone_macs: int


@dataclass(frozen=True)
class Sensitivity:
    """The unpruned network, and one row for each layer and ratio.

    Attributes:
        dense: The unpruned network.
        rows: Layers in forward order, within a layer by rising ratio.
        network: `models.tensors.weights_digest` of the measured weights; empty if not recorded.
    """

    dense: SensitivityRow
    rows: tuple[SensitivityRow, ...]
    network: str = ""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers measured, in forward order."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ratios measured, rising."""
        return tuple(sorted({row.ratio for row in self.rows}))

    def of(self, layer: str) -> tuple[SensitivityRow, ...]:
        """Return the rows of one layer by rising ratio; none where it was not measured."""
        return tuple(row for row in self.rows if row.layer == layer)

    def loss_of(self, row: SensitivityRow) -> float:
        """Return the unpruned network's mAP minus a row's."""
        return self.dense.mAP - row.mAP

    def to_csv(self) -> str:
        """Return the table, with the unpruned network in its first row; scores have six decimals."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in (self.dense, *self.rows):
            # Of the rounded scores, so that the columns agree to the last digit.
            mAP = round(row.mAP, _DECIMALS)  # noqa: N806
            loss = round(round(self.dense.mAP, _DECIMALS) - mAP, _DECIMALS) + 0.0
            width = "" if row.width is None else row.width
            scores = (f"{mAP:.{_DECIMALS}f}", f"{loss:.{_DECIMALS}f}")
            network = self.network if row is self.dense else ""
            writer.writerow((row.layer, f"{row.ratio:.12g}", width, *scores, row.n_params, row.backbone_macs, network))
        return text.getvalue()


def read_sensitivity(path: Path) -> Sensitivity:
    """Read the CSV of `Sensitivity.to_csv`, with or without the column ``network``.

    Raises:
        PruningError: If the file cannot be read, or a line is wrong; the line is named.
    """
    names, rows_below = read_csv_table(path, _TABLE)
    columns = tuple(names)
    if columns not in (COLUMNS, COLUMNS[:-1]):
        raise PruningError(f"{path}: its columns must be {','.join(COLUMNS)}: make it with `epanns sensitivity`")
    lines = list(rows_below)
    rows = [_row_of(line, f"{path}, line {number}") for number, line in enumerate(lines, start=2)]
    if not rows or rows[0].layer or not all(row.layer for row in rows[1:]):
        raise PruningError(f"{path}: the dense network, without a layer, must be in line 2 and nowhere else")
    network = lines[0].get("network", "")
    if network and (problem := SHA256.problem("network", network)):
        raise PruningError(f"{path}, line 2: {problem} or nothing: measure again with `epanns sensitivity`")
    measured = set()
    for number, row in enumerate(rows, start=2):
        if (row.layer, row.ratio) in measured:
            raise PruningError(f"{path}, line {number}: {row.layer} at {row.ratio:g} is given twice: remove one")
        measured.add((row.layer, row.ratio))
    return Sensitivity(rows[0], tuple(rows[1:]), network)


def _row_of(line: Mapping[str, str], place: str) -> SensitivityRow:
    try:
        layer = line["layer"]
        row = SensitivityRow(
            layer=layer,
            ratio=float(line["ratio"]),
            width=int(line["width"]) if layer or line["width"] else None,
            mAP=float(line["mAP"]),
            n_params=int(line["n_params"]),
            backbone_macs=int(line["backbone_macs"]),
        )
    except ValueError as error:
        raise PruningError(f"{place}: {error}: measure again with `epanns sensitivity`") from error
    rules = {
        "ratio must be in (0, 1)": 0 < row.ratio < 1 if layer else row.ratio == 0,
        "width must be at least 1": row.width is None if not layer else (row.width or 0) >= 1,
        "mAP must be in [0, 1]": 0 <= row.mAP <= 1,
        "n_params and backbone_macs must be above 0": row.n_params > 0 and row.backbone_macs > 0,
    }
    for rule, holds in rules.items():
        if not holds:
            raise PruningError(f"{place}: {rule}: measure again with `epanns sensitivity`")
    return row


FORMAT = "epanns-sensitivity/1"
RECORD, TABLE = "sensitivity.json", "sensitivity.csv"
FIGURES = ("sensitivity.svg", "sensitivity.png", "sensitivity.pdf")


@dataclass(frozen=True)
class SensitivityRecord:
    """Settings and rows of a measurement.

    Attributes:
        asked: All settings that decide the numbers: network, clips, protocol and `SensitivityConfig`; JSON values.
        n_rows: Number of rows when complete, with that of the unpruned network.
        rows: The rows measured so far, the unpruned network first.
        seconds: Time of the rows, over all resumptions.
        device: Device that computed the last row, in words.
        versions: Package -> version that computed the last row.
        network: Digest of the weights (`models.tensors.weights_digest`).
    """

    asked: Mapping[str, Any]
    n_rows: int
    rows: tuple[SensitivityRow, ...] = ()
    seconds: float = 0.0
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    network: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every row is measured."""
        return len(self.rows) == self.n_rows

    @property
    def table(self) -> Sensitivity:
        """The rows as a table; there must be at least one row."""
        return Sensitivity(self.rows[0], self.rows[1:], self.network)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"format": FORMAT, **asdict(self), "is_complete": self.is_complete}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SensitivityRecord":
        """Return the record in the JSON values of `to_dict`; wrong values raise KeyError, TypeError or ValueError."""
        given = dict(values)
        if given.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        given.pop("is_complete")
        return cls(**{**given, "rows": tuple(SensitivityRow(**row) for row in given["rows"])})
