"""Trials of sweeps that have no result, and why."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from epanns.errors import DataError
from epanns.safe_text import is_path_name, path_name
from epanns.text_files import read_json


@dataclass(frozen=True)
class Failure:
    """A trial without a result: its folder, and the reason in one line."""

    folder: Path
    reason: str


def failures_in(folders: Iterable[Path]) -> list[Failure]:
    """Return the trials of every sweep below the folders that have no result, each once, sorted by path.

    Raises:
        DataError: If a ``sweep.json`` cannot be read.
    """
    sweeps = {parent.resolve(): parent for folder in folders for parent in _sweeps_of(folder)}
    return [failure for sweep in sorted(sweeps.values()) for failure in _failures_of(sweep)]


def failure_in(trial: Path) -> str:
    """Return why the trial of a folder has no result, in one line."""
    if (trial / "error.json").exists():
        return _reason_in(trial / "error.json")
    asked = _table_in(trial / "config.json")
    base = asked.get("base") if asked else None
    if is_path_name(base) and (trial.parent / str(base) / "error.json").exists():
        return "its base failed"
    return "it was not run to its end"


def _sweeps_of(folder: Path) -> Iterator[Path]:
    """Yield the sweeps below a folder, and the sweep whose ``trials`` it is."""
    if folder.resolve().name == "trials" and (folder.parent / "sweep.json").is_file():
        yield folder.parent
    for parent, _, names in os.walk(folder):  # `read_records` refuses a folder that cannot be read
        if "sweep.json" in names:
            yield Path(parent)


def _failures_of(sweep: Path) -> Iterator[Failure]:
    claimed = sweep / "sweep.json"
    given = read_json(claimed, error=DataError, remedy="run the sweep again")
    trials = given.get("trials") if isinstance(given, dict) else None
    if not isinstance(trials, list):
        raise DataError(f"{claimed}: trials must be a list of names; run the sweep again")
    for trial in trials:
        folder = sweep / "trials" / path_name(trial, f"{claimed}: trials", DataError)
        if not (folder / "result.json").exists():
            yield Failure(folder, failure_in(folder))


def _reason_in(path: Path) -> str:
    found = _table_in(path)
    if found is None:
        return f"{path.name} cannot be read"
    message = found.get("message")
    first, *_ = (message.splitlines() if isinstance(message, str) else []) or [""]
    return first or str(found.get("kind") or "an error without a message")


def _table_in(path: Path) -> dict[str, object] | None:
    """Return the table of a small JSON file, or None where there is none or it cannot be read."""
    try:
        found = read_json(path, error=DataError)
    except DataError:
        return None
    return found if isinstance(found, dict) else None
