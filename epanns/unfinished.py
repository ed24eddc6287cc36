"""Folders that other commands write, for messages to somebody who gives one where a checkpoint is wanted."""

import re
from pathlib import Path
from typing import Any

from epanns.errors import DataError
from epanns.json_file import read_json

RUN_FILE = "training.json"  # first file of a training run
COMMAND = "command"  # its key for the command that resumes the run, while it has not ended
STATE_NAME = re.compile(r"state-(\d{8,})-([0-9a-f]{16})\.pt")  # step, and the beginning of the sha256
BEST_NAME = re.compile(r"best-(\d{8,})")  # step

_AGAIN = "the command that began it, with the same options"
_CHECKPOINT = "config.json"


def describe_other_folder(folder: Path) -> str:
    """Return what a folder is that is no checkpoint, and what to do; empty where it is nothing of ours.

    An unfinished training run is described with its step and the command that resumes it.
    """
    if (folder / RUN_FILE).is_file():
        return _describe_run(folder)
    if (folder / "steps.json").is_file():
        return f"holds the fine-tuning between the rounds of a pruning that has not ended: resume it with {_AGAIN}"
    if (folder / "sweep.json").is_file():
        made = sorted(path.parent for path in folder.glob(f"trials/*/*/{_CHECKPOINT}"))
        where = f"its checkpoints lie deeper, as {made[0]}" if made else f"none of its trials has ended: run {_AGAIN}"
        return f"is the folder of a sweep: {where}"
    if (folder / "sensitivity.json").is_file():
        return "holds the result of `epanns sensitivity`: give the checkpoint that was measured"
    if (folder / "pack.json").is_file() or (folder / "journal.jsonl").is_file():
        return "is a pack of clips: give a checkpoint here and the pack with its own option"
    return ""


def _describe_run(folder: Path) -> str:
    found = _read(folder / RUN_FILE)
    asked, command = found.get("asked"), found.get(COMMAND)
    training = asked.get("training") if isinstance(asked, dict) else None
    iterations = training.get("iterations") if isinstance(training, dict) else None
    resume = f"resume it with: {command}" if isinstance(command, str) and command else f"resume it with {_AGAIN}"
    if "result" in found:
        return f"is a training run, stopped while its checkpoint was put in place: {resume}"
    step = _newest(folder, STATE_NAME)
    total = f" of {iterations}" if type(iterations) is int else ""
    at = "before its first state was saved" if step is None else f"at step {step}{total}"
    best = _newest(folder, BEST_NAME)
    kept = "" if best is None else f"; its best weights so far are the checkpoint {folder}/best-{best:08d}"
    return f"is an unfinished training run, {at}: {resume}{kept}"


def _read(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file, error=DataError)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def _newest(folder: Path, name: re.Pattern[str]) -> int | None:
    """Return the highest step among the files and folders of such a name."""
    steps = [int(match[1]) for file in folder.iterdir() if (match := name.fullmatch(file.name))]
    return max(steps, default=None)
