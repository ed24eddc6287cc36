"""Sensitivities on disk: what was asked and every row that is done, in one file that is replaced after each row."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.pruning.budgets.sensitivity import Sensitivity, SensitivityRow
from epanns.workfolder import Work, WorkFolder

FORMAT = "epanns-sensitivity/1"
RECORD, TABLE = "sensitivity.json", "sensitivity.csv"
FIGURES = ("sensitivity.svg", "sensitivity.png", "sensitivity.pdf")
_WORK = Work("holds no sensitivities", "was measured with", "a measurement")


@dataclass(frozen=True)
class SensitivityRecord:
    """What was asked and what has been measured so far.

    Attributes:
        asked: Everything that decides the numbers: network, clips, protocol, settings; JSON values.
        n_rows: Rows there will be, the dense network's included.
        rows: Those that are done, the dense network first.
        seconds: Spent on them, over all resumptions.
        device: Where the last of them was computed.
        versions: Of the packages that computed it.
        network: Which weights: their `models.tensors.weights_digest`.
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
        """Whether every row is done."""
        return len(self.rows) == self.n_rows

    @property
    def table(self) -> Sensitivity:
        """The rows as a table; there must be one at least."""
        return Sensitivity(self.rows[0], self.rows[1:], self.network)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"format": FORMAT, **asdict(self), "is_complete": self.is_complete}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SensitivityRecord":
        """Read `to_dict`'s form; what is wrong is a KeyError, TypeError or ValueError."""
        given = dict(values)
        if given.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        given.pop("is_complete")
        return cls(**{**given, "rows": tuple(SensitivityRow(**row) for row in given["rows"])})


class SensitivityFolder:
    """The folder of one measurement: the record while it goes on, then the table and the figure too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = WorkFolder(path, RECORD, _WORK)

    @contextmanager
    def opened(self, asked: Mapping[str, Any], n_rows: int, *, fresh: bool = False) -> Iterator[SensitivityRecord]:
        """Keep other processes out and claim the folder for the length of a block; yield what was measured in it.

        Args:
            asked: What decides the numbers, in JSON values.
            n_rows: Rows that there will be.
            fresh: Whether to delete an earlier measurement.

        Raises:
            OutputError: If the folder holds another measurement or something else, or another process works in it;
                nothing is deleted then.
        """
        self._folder.require_usable()
        with self._folder.locked():
            if fresh:
                self._folder.start_over(_is_own)
            empty = SensitivityRecord(asked, n_rows)
            record = self._folder.begin_or_resume(asked, first=empty.to_dict(), read=_asked_and_record)
            yield empty if record is None else record

    def save(self, record: SensitivityRecord) -> None:
        """Write the record; the one before it stays whole if the process dies."""
        write_json(self.path / RECORD, record.to_dict())


def _is_own(name: str) -> bool:
    return name.removesuffix(".partial") in {RECORD, TABLE, *FIGURES}


def _asked_and_record(found: Any) -> tuple[Mapping[str, Any], SensitivityRecord]:
    record = SensitivityRecord.from_dict(found)
    return record.asked, record
