"""An output folder: it belongs to one configuration, and one process at a time works in it."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from epanns.atomic import partial_of, write_json
from epanns.errors import OutputError
from epanns.json_file import read_json
from epanns.locks import locked

Value = TypeVar("Value")

DRAWING_SECONDS = 120.0  # longest wait for a process that writes tables and figures, which takes seconds
LOCK = "epanns.lock"
LOCK_FILES = frozenset({LOCK, f"{LOCK}.taking"})

_ABSENT: Any = object()  # what is at its default may be left out of a configuration


@dataclass(frozen=True)
class Work:
    """How the errors about a folder describe the work in it.

    Attributes:
        absent: About a folder with something else in it, as ``is no training run``.
        held: About a folder of another configuration, before the first difference, as ``holds a run with``.
        noun: The work itself, as ``a run``.
        to_choose: What can be done about another configuration.
        to_replace: What can be done about a file that cannot be read.
        place: What gives the folder, as the command line names it.
    """

    absent: str = "holds something else"
    held: str = "holds work with"
    noun: str = "the work"
    to_choose: str = "repeat its options to resume it, --fresh to start over, or another --out"
    to_replace: str = "give --fresh or another --out"
    place: str = "--out"


@dataclass(frozen=True)
class WorkFolder:
    """An output folder of one piece of work; the one rule for claiming, locking, starting over and resuming.

    The *first file*, JSON, is written before any other and removed after all others: where it is, the folder is known
    as this kind of work, and the file holds the configuration that the folder belongs to.

    Attributes:
        path: The folder.
        first: Name of the first file; empty where the folder needs the lock alone.
        work: The words of the errors.
        earlier_locks: Names of the files that earlier versions locked, ``.`` for the folder itself.
        lock: Name of the lock file.
    """

    path: Path
    first: str = ""
    work: Work = Work()
    earlier_locks: Sequence[str] = ()
    lock: str = LOCK

    @property
    def first_file(self) -> Path:
        """Return the path of the first file."""
        return self.path / self.first

    @property
    def is_begun(self) -> bool:
        """Whether the first file is there."""
        return self.first_file.is_file()

    @property
    def is_free(self) -> bool:
        """Whether the folder can be claimed: it is not there, or empty.

        Files that a killed process left there do not count: a lock file, and the first file half written.
        """
        if not self.path.is_dir():
            return not self.path.exists()
        left = {*LOCK_FILES, *self.earlier_locks} - {self.first}
        if self.first:
            left.add(partial_of(self.first_file).name)
        return {file.name for file in self.path.iterdir()} <= left

    @contextmanager
    def locked(self, *, wait: float = 0.0) -> Iterator[None]:
        """Keep other processes out for the length of a block; the folder is made where it is missing.

        The lock ends with the process. Where the block writes nothing, a folder that was made is removed again.

        Args:
            wait: Longest time in seconds to wait for another process.

        Raises:
            OutputError: If another process works in the folder, or the folder cannot be made or written to.
        """
        earlier = [self.path / name for name in self.earlier_locks]
        with _made(self.path), locked(self.path / self.lock, self.path, wait=wait, earlier=earlier):
            yield

    def claim(
        self, asked: Mapping[str, Any], *, first: Mapping[str, Any], read: Callable[[Any], tuple[Any, Value]]
    ) -> Value | None:
        """Claim the folder for a configuration, or find it claimed for the same one; call it under the lock.

        Args:
            asked: The configuration, in JSON values.
            first: Content of the first file if the folder is free.
            read: Returns the configuration and a value of its own from the content of the first file; raises an
                AttributeError, KeyError, TypeError or ValueError where the content is wrong.

        Returns:
            The value that `read` returned, None if the folder was free.

        Raises:
            OutputError: If the folder belongs to another configuration, or holds something else.
        """
        if self.first_file.exists():
            return self.require_same(asked, read=read)
        self.require_claimable()
        write_json(self.first_file, first)
        return None

    def require_claimable(self) -> None:
        """Refuse a folder that is neither free nor claimed by its first file; call it before long work.

        Raises:
            OutputError: If the folder holds something else, or is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file, not a folder: choose another {self.work.place}")
        if not self.is_free and not self.first_file.exists():
            raise OutputError(f"{self.path} exists already and {self.work.absent}: choose another {self.work.place}")

    def require_unused(self) -> None:
        """Refuse a folder in which another process works; call it before long work, and lock the folder later.

        Raises:
            OutputError: If another process works in the folder.
        """
        if any((self.path / name).is_file() for name in (self.lock, *self.earlier_locks)):
            with self.locked():
                pass

    def require_same(self, asked: Mapping[str, Any], *, read: Callable[[Any], tuple[Any, Value]]) -> Value:
        """Return the value that `read` returns for a folder that is claimed; the arguments are those of `claim`.

        Raises:
            OutputError: If the folder belongs to another configuration, or its first file cannot be read.
        """
        found = read_json(self.first_file, error=OutputError, remedy=self.work.to_replace)
        try:
            before, value = read(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{self.first_file}: cannot be read ({error}): {self.work.to_replace}") from error
        if before != asked:
            difference = first_difference(before, asked)
            raise OutputError(f"{self.path} {self.work.held} {difference}: {self.work.to_choose}")
        return value

    def start_over(self, is_own: Callable[[str], bool], *, finished_by: str = "") -> None:
        """Delete what an earlier run left (``--fresh``), and nothing else; call it under the lock, after all checks.

        Args:
            is_own: Whether a name belongs to the work: of a file, as ``metrics.csv`` or ``logs/events``, or of a
                folder, as ``logs/``. A link is a file.
            finished_by: Name of the file that makes the work look finished, which is deleted before the others.

        Raises:
            OutputError: If the folder is of no such work, or holds something else too; nothing is deleted then.
        """
        if self.is_free:
            partial_of(self.first_file).unlink(missing_ok=True)
            return
        if not self.is_begun and not (finished_by and (self.path / finished_by).is_file()):
            raise OutputError(f"{self.path} exists already and {self.work.absent}: choose another --out")
        passed_over = {*LOCK_FILES, *self.earlier_locks}
        foreign = [name for name in _names_below(self.path) if name not in passed_over and not is_own(name)]
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
    """Keep other processes from writing a file or folder, and what belongs beside it, for the length of a block.

    The lock file ``NAME.lock`` lies beside it. Folders that were made and stay empty are removed.

    Raises:
        OutputError: If another process writes it for longer than `wait` seconds, or its folder cannot be written to.
    """
    with _made(path.parent), locked(path.parent / f"{path.name}.lock", path, wait=wait):
        yield


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing, with its parents; at the end, those that were made and are empty go again."""
    missing = [place for place in (folder, *folder.parents) if not _is_there(place)]
    try:
        for place in (*reversed(missing), folder):  # `Path.mkdir` makes parents by recursion, which ends at about 1,000
            place.mkdir(exist_ok=True)
    except FileExistsError as error:
        what = "a link to nothing" if folder.is_symlink() else "a file"
        raise OutputError(f"{folder} is {what}, not a folder: choose another --out") from error
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror or error}): choose another --out, or mend its permissions or "
            "its disk"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # not empty, or moved away
            for place in missing:
                place.rmdir()


def _is_there(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError:  # no name for a file, or a folder that may not be looked into
        return False


def _names_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yield the names of all files and folders below a folder, relative to it; those of folders end with a slash."""
    for file in folder.iterdir():
        if file.is_dir() and not file.is_symlink():
            yield f"{prefix}{file.name}/"
            yield from _names_below(file, f"{prefix}{file.name}/")
        else:
            yield f"{prefix}{file.name}"


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with what is in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def first_difference(before: Any, asked: Any, prefix: str = "") -> str:
    """Return where two configurations first differ, as ``training.batch_size=32, not 16``."""
    left, right = (asked if before is _ABSENT else before), (before if asked is _ABSENT else asked)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        one, other = ({} if each is _ABSENT else each for each in (before, asked))
        for key in sorted({*one, *other}):
            inner = one.get(key, _ABSENT), other.get(key, _ABSENT)
            if inner[0] != inner[1]:
                return first_difference(*inner, f"{prefix}.{key}" if prefix else key)
    given = f"{prefix} left out" if before is _ABSENT else f"{prefix}={before!r}"
    return f"{given}, not {'left out' if asked is _ABSENT else repr(asked)}"
