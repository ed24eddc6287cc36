"""Sensitivities on disk: what was asked and every row that is done, in one file that is replaced after each row."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from epanns.atomic import partial_of, write_json
from epanns.claim import Work, claim
from epanns.errors import OutputError
from epanns.pruning.budgets.sensitivity import Sensitivity, SensitivityRow

FORMAT = "epanns-sensitivity/1"
RECORD, TABLE = "sensitivity.json", "sensitivity.csv"
_WORK = Work("holds no sensitivities", "was measured with")
FIGURES = ("sensitivity.svg", "sensitivity.png", "sensitivity.pdf")


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

    def open(self, asked: Mapping[str, Any], n_rows: int) -> SensitivityRecord:
        """Claim the folder for what is asked; return what has been measured in it.

        Raises:
            OutputError: If the folder holds another measurement or something else.
        """
        empty = SensitivityRecord(asked, n_rows)
        record = claim(self.path / RECORD, asked, _WORK, first=empty.to_dict(), read=_asked_and_record)
        return empty if record is None else record

    def save(self, record: SensitivityRecord) -> None:
        """Write the record; the one before it stays whole if the process dies."""
        write_json(self.path / RECORD, record.to_dict())

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keep a second process out of the folder; the lock goes with the process, however it ends.

        Raises:
            OutputError: If another process measures here, or the path is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file: choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise OutputError(f"{self.path}: another process measures here; wait, or choose another --out") from error
        finally:
            os.close(descriptor)

    def start_over(self) -> None:
        """Remove what was measured before (``--fresh``), and nothing else.

        Raises:
            OutputError: If the folder holds something else.
        """
        own = {RECORD, TABLE, *FIGURES}
        own |= {partial_of(self.path / name).name for name in own}
        present = {file.name for file in self.path.iterdir()} if self.path.is_dir() else set()
        if foreign := sorted(present - own):
            raise OutputError(f"{self.path} holds {foreign[0]}, which is no part of a measurement: move it away")
        for name in sorted(own, key=RECORD.__eq__):  # the record last: while it is there, the folder is known
            (self.path / name).unlink(missing_ok=True)


def _asked_and_record(found: Any) -> tuple[Mapping[str, Any], SensitivityRecord]:
    record = SensitivityRecord.from_dict(found)
    return record.asked, record
