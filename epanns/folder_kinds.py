"""Recognise the folders that commands write, for the error about a folder that is no checkpoint."""

import re
from pathlib import Path

from epanns.errors import DataError
from epanns.text_files import read_json

RUN_FILE = "training.json"  # first file of a training run
COMMAND = "command"  # its key for the command that resumes the run, until the run has ended
STATE_NAME = re.compile(r"state-(\d{8,})-([0-9a-f]{16})\.pt")  # step, and the beginning of the sha256
BEST_NAME = re.compile(r"best-(\d{8,})")  # step

_SAME_COMMAND = "the command that started it, with the same options"
_CHECKPOINT = "config.json"


def describe_other_folder(folder: Path) -> str:
    """Return the kind of a folder that is no checkpoint, and what to do; empty if epanns did not write the folder."""
    if (folder / RUN_FILE).is_file():
        return _describe_run(folder)
    if (folder / "steps.json").is_file():
        return f"holds the fine-tuning of an unfinished pruning in rounds: resume it with {_SAME_COMMAND}"
    if (folder / "sweep.json").is_file():
        made = sorted(path.parent for path in folder.glob(f"trials/*/*/{_CHECKPOINT}"))
        where = f"give one of its checkpoints, as {made[0]}" if made else f"no trial has ended: run {_SAME_COMMAND}"
        return f"is the folder of a sweep: {where}"
    if (folder / "sensitivity.json").is_file():
        return "holds the result of `epanns sensitivity`: give the checkpoint that was measured"
    if (folder / "pack.json").is_file() or (folder / "journal.jsonl").is_file():
        return "is a pack of clips: give a checkpoint here and the pack with its own option"
    return ""


def _describe_run(folder: Path) -> str:
    """Describe an unfinished training run with its step and the command that resumes it."""
    try:
        found = read_json(folder / RUN_FILE, error=DataError)
        found = found if isinstance(found, dict) else {}
    except DataError:
        found = {}
    asked, command = found.get("asked"), found.get(COMMAND)
    training = asked.get("training") if isinstance(asked, dict) else None
    iterations = training.get("iterations") if isinstance(training, dict) else None
    resume = f"resume it with: {command}" if isinstance(command, str) and command else f"resume it with {_SAME_COMMAND}"
    if "result" in found:
        return f"is a training run, stopped while its checkpoint was put in place: {resume}"
    step = _newest(folder, STATE_NAME)
    total = f" of {iterations}" if type(iterations) is int else ""
    at = "before its first state was saved" if step is None else f"at step {step}{total}"
    best = _newest(folder, BEST_NAME)
    kept = "" if best is None else f"; its best weights so far are the checkpoint {folder}/best-{best:08d}"
    return f"is an unfinished training run, {at}: {resume}{kept}"


def _newest(folder: Path, name: re.Pattern[str]) -> int | None:
    """Return the highest step in the names of files and folders that match a pattern; None if there is none."""
    steps = [int(match[1]) for file in folder.iterdir() if (match := name.fullmatch(file.name))]
    return max(steps, default=None)
