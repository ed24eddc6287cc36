"""The record of a measurement of sensitivities: its settings and the rows measured so far, read without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from epanns.pruning.budgets.sensitivity_table import Sensitivity, SensitivityRow

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
