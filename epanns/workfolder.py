"""Output folders: each belongs to one configuration and one process at a time; their kinds are recognised by files."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from epanns.atomic import partial_of, write_json
from epanns.errors import DataError, OutputError
from epanns.locks import locked
from epanns.text_files import read_json

Value = TypeVar("Value")

DRAWING_SECONDS = 120.0  # longest wait for a process that writes tables and figures, which takes seconds
LOCK = "epanns.lock"
LOCK_FILES = frozenset({LOCK, f"{LOCK}.taking"})
RUN_FILE = "training.json"  # first file of a training run
COMMAND = "command"  # its key for the command that resumes the run, until the run has ended
STATE_NAME = re.compile(r"state-(\d{8,})-([0-9a-f]{16})\.pt")  # step, and the beginning of the sha256
BEST_NAME = re.compile(r"best-(\d{8,})")  # step

_ABSENT: Any = object()  # keys with their default value may be missing in a configuration
_CHECKPOINT = "config.json"
_SAME_COMMAND = "the command that started it, with the same options"


@dataclass(frozen=True)
class Work:
    """Wording of the errors about a folder of one kind of work.

    Attributes:
        absent: About a folder with other contents, as ``is no training run``.
        held: About a folder of another configuration, before the first difference, as ``holds a run with``.
        noun: The work itself, as ``a run``.
        to_choose: What to do about another configuration.
        to_replace: What to do about a file that cannot be read.
        place: Option or argument that gives the folder.
    """

    absent: str = "holds something else"
    held: str = "holds work with"
    noun: str = "the work"
    to_choose: str = "repeat its options to resume it, --fresh to start over, or another --out"
    to_replace: str = "give --fresh or another --out"
    place: str = "--out"


@dataclass(frozen=True)
class WorkFolder:
    """An output folder of one piece of work: how it is locked, begun, resumed and deleted.

    The *first file*, JSON, is written before all other files and removed after them. It marks the folder as this kind
    of work and stores the configuration that the folder belongs to.

    Attributes:
        path: The folder.
        first: Name of the first file; empty for a folder that is only locked.
        work: Wording of the errors.
        lock: Name of the lock file.
    """

    path: Path
    first: str = ""
    work: Work = Work()
    lock: str = LOCK

    @property
    def first_file(self) -> Path:
        """Return the path of the first file."""
        return self.path / self.first

    @property
    def is_begun(self) -> bool:
        """Whether the first file exists."""
        return self.first_file.is_file()

    @property
    def is_free(self) -> bool:
        """Whether the folder is missing or empty, apart from the lock file and partial file of a killed process."""
        if not self.path.is_dir():
            return not self.path.exists()
        left = LOCK_FILES | ({partial_of(self.first_file).name} if self.first else frozenset())
        return {file.name for file in self.path.iterdir()} <= left

    @contextmanager
    def locked(self, *, wait: float = 0.0) -> Iterator[None]:
        """Keep other processes out for the duration of a block; a missing folder is made.

        The lock ends with the process. A folder that was made here and is empty after the block is removed. `wait` is
        in seconds.

        Raises:
            OutputError: If another process works in the folder, or the folder cannot be made or written to.
        """
        with _made(self.path), locked(self.path / self.lock, self.path, wait=wait):
            yield

    def begin_or_resume(
        self, configuration: Mapping[str, Any], *, first: Mapping[str, Any], read: Callable[[Any], tuple[Any, Value]]
    ) -> Value | None:
        """Write the first file to a free folder, or check that the folder belongs to the same configuration.

        Call it under the lock.

        Args:
            configuration: The configuration, in JSON values.
            first: Content of the first file, written if the folder is free.
            read: Returns the configuration and a value of the caller from the content of the first file; raises
                AttributeError, KeyError, TypeError or ValueError if the content is wrong.

        Returns:
            The value that `read` returned; None if the folder was free.

        Raises:
            OutputError: If the folder belongs to another configuration, or holds something else.
        """
        if self.first_file.exists():
            return self.require_same(configuration, read=read)
        self.require_usable()
        write_json(self.first_file, first)
        return None

    def require_usable(self) -> None:
        """Raise `OutputError` if the folder is neither free nor of this kind of work; call it before long work."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file, not a folder: choose another {self.work.place}")
        if not self.is_free and not self.first_file.exists():
            raise OutputError(f"{self.path} exists already and {self.work.absent}: choose another {self.work.place}")

    def require_unlocked(self) -> None:
        """Raise `OutputError` if another process works in the folder; call it before long work, and lock later."""
        if (self.path / self.lock).is_file():
            with self.locked():
                pass

    def require_same(self, configuration: Mapping[str, Any], *, read: Callable[[Any], tuple[Any, Value]]) -> Value:
        """Return the value that `read` returns for a folder of the same configuration; see `begin_or_resume`.

        Raises:
            OutputError: If the folder belongs to another configuration, or its first file cannot be read.
        """
        found = read_json(self.first_file, error=OutputError, remedy=self.work.to_replace)
        try:
            before, value = read(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{self.first_file}: cannot be read ({error}): {self.work.to_replace}") from error
        if before != configuration:
            difference = first_difference(before, configuration)
            raise OutputError(f"{self.path} {self.work.held} {difference}: {self.work.to_choose}")
        return value

    def start_over(self, is_own: Callable[[str], bool], *, finished_by: str = "") -> None:
        """Delete the files of an earlier run (``--fresh``); call it under the lock, after all checks.

        Args:
            is_own: Returns whether a relative name belongs to the work: of a file, as ``metrics.csv`` or
                ``logs/events``, or of a folder, as ``logs/``. A link is a file.
            finished_by: Name of the file that marks the work as finished, which is deleted first.

        Raises:
            OutputError: If the folder is not of this kind of work, or holds other files; nothing is deleted.
        """
        if self.is_free:
            partial_of(self.first_file).unlink(missing_ok=True)
            return
        if not self.is_begun and not (finished_by and (self.path / finished_by).is_file()):
            raise OutputError(f"{self.path} exists already and {self.work.absent}: choose another --out")
        foreign = [name for name in _names_below(self.path) if name not in LOCK_FILES and not is_own(name)]
        if foreign:
            raise OutputError(
                f"{self.path} holds {min(foreign).rstrip('/')!r}, which is no part of {self.work.noun}, so --fresh "
                "deletes nothing: move it away or choose another --out"
            )
        order = {finished_by: 0, self.first: 2}
        for file in sorted(self.path.iterdir(), key=lambda file: (order.get(file.name, 1), file.name)):
            if file.name not in LOCK_FILES:
                remove(file)


@contextmanager
def locked_file(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes from writing a file or folder for the duration of a block.

    The lock file ``NAME.lock`` is beside it. Folders that were made here and are empty after the block are removed.

    Raises:
        OutputError: If another process writes it for longer than `wait` seconds, or its folder cannot be written to.
    """
    with _made(path.parent), locked(path.parent / f"{path.name}.lock", path, wait=wait):
        yield


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a missing folder and its parents; remove those that were made and are empty after the block."""
    # False, and no error, for a name that is not valid and below a parent that may not be searched.
    missing = [place for place in (folder, *folder.parents) if not os.access(place, os.F_OK)]
    try:
        for place in (*reversed(missing), folder):  # `Path.mkdir` makes parents by recursion, which ends at about 1,000
            place.mkdir(exist_ok=True)
    except FileExistsError as error:
        what = "a link to nothing" if folder.is_symlink() else "a file"
        raise OutputError(f"{folder} is {what}, not a folder: choose another --out") from error
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror or error}): choose another --out, or correct its permissions "
            "or its disk"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # not empty, or moved away
            for place in missing:
                place.rmdir()


def _names_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yield the relative names of all files and folders below a folder; names of folders end with a slash."""
    for file in folder.iterdir():
        if file.is_dir() and not file.is_symlink():
            yield f"{prefix}{file.name}/"
            yield from _names_below(file, f"{prefix}{file.name}/")
        else:
            yield f"{prefix}{file.name}"


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def first_difference(before: Any, after: Any, prefix: str = "") -> str:
    """Return the first difference of two configurations, as ``training.batch_size=32, not 16``."""
    left, right = (after if before is _ABSENT else before), (before if after is _ABSENT else after)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        one, other = ({} if each is _ABSENT else each for each in (before, after))
        for key in sorted({*one, *other}):
            inner = one.get(key, _ABSENT), other.get(key, _ABSENT)
            if inner[0] != inner[1]:
                return first_difference(*inner, f"{prefix}.{key}" if prefix else key)
    given = f"{prefix} left out" if before is _ABSENT else f"{prefix}={before!r}"
    return f"{given}, not {'left out' if after is _ABSENT else repr(after)}"


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
