"""Locks between processes: a lock file has one holder, also where the file system has no locks.

The lock is the kernel's (``flock``), so it ends with the process, however that ends. The file holds who has the lock,
in JSON, for the message to a second process; a file without a holder is of no account and is used again. Where the file
system refuses ``flock``, the text of the file decides: it counts while the process that wrote it runs, also for
processes that can lock the file.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from epanns.errors import OutputError
from epanns.notes import note

_IS_LOCKED = frozenset({errno.EACCES, errno.EAGAIN})
_HAS_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_BY_TEXT = "by_text"  # key of a holder whose file system has no locks
_POLL_SECONDS = 0.1
_TAKING_SECONDS = 2.0  # a process that is taking a lock writes its own name in far less

_held: set[int] = set()  # descriptors of locks that this process holds
_noted: set[int] = set()  # file systems without locks that a note was given about


class _BusyError(Exception):
    """Another holder has the lock; `holder` is what is known of it."""

    def __init__(self, holder: Mapping[str, Any]) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def locked(file: Path, place: Path, *, wait: float = 0.0, earlier: Iterable[Path] = ()) -> Iterator[None]:
    """Hold a lock file for the length of a block; the file is removed at the end.

    A process that was killed leaves the file, which keeps nobody out. Processes that are forked in the block do not
    hold the lock. An error that is raised in the block passes unchanged.

    Args:
        file: The lock file; its folder must exist.
        place: Folder or file that the lock is for, as messages name it.
        wait: Longest time in seconds to wait for another holder.
        earlier: Files, or the folder itself, that an earlier version locked instead.

    Raises:
        OutputError: If another process holds the lock, or the lock file cannot be written.
    """
    lock = _waited_for(file, place, wait, list(earlier))
    try:
        yield
    finally:
        lock.release()


class _Lock:
    """A lock that is held: by `descriptor`, or by the text of the file alone."""

    def __init__(self, file: Path, descriptor: int | None) -> None:
        self._file, self._descriptor, self._pid = file, descriptor, os.getpid()
        if descriptor is not None:
            _held.add(descriptor)

    def release(self) -> None:
        """Remove the lock file and let go of the lock; a forked copy of the holder does nothing."""
        if os.getpid() != self._pid:
            return
        with suppress(OSError):  # moved away or not writable any more: the lock ends with its descriptor or its process
            if self._is_own_file():
                self._file.unlink()
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.close(self._descriptor)

    def _is_own_file(self) -> bool:
        if self._descriptor is None:
            return _holder_in(self._file).get("pid") == self._pid
        return _is_same_file(self._descriptor, self._file)


def _close_inherited() -> None:
    """Close the locks of the parent in a process that was forked, so that they end with the parent."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _waited_for(file: Path, place: Path, wait: float, earlier: list[Path]) -> _Lock:
    give_up, is_noted = time.monotonic() + wait, False
    while True:
        try:
            return _taken(file, place, earlier)
        except _BusyError as busy:
            who = _described(busy.holder)
            if time.monotonic() >= give_up:
                remedy = _remedy(busy.holder, file)
                raise OutputError(f"{place} is in use by {who}: {remedy} or choose another --out") from None
            if not is_noted:
                note(f"{place}: waiting for {who}")
            is_noted = True
        except OSError as error:
            raise OutputError(
                f"{place}: cannot be written ({error.strerror or error}): choose another --out, or mend its "
                "permissions or its disk"
            ) from error
        time.sleep(_POLL_SECONDS)


def _taken(file: Path, place: Path, earlier: list[Path]) -> _Lock:
    """Take the lock, or raise `_BusyError`; an OSError is of the file itself."""
    if any(map(_is_locked, earlier)):
        raise _BusyError({})
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(descriptor, file):
                break
        except OSError as error:
            os.close(descriptor)
            if error.errno in _IS_LOCKED:
                raise _BusyError(_holder_in(file)) from None
            if error.errno not in _HAS_NO_LOCKS:
                raise
            _note_missing_locks(file, place, error)
            return _taken_without_locks(file)
        os.close(descriptor)  # the holder removed the file between the two calls
    if _is_held_by_text(file):
        os.close(descriptor)
        raise _BusyError(_holder_in(file))
    with suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _own_text())
    return _Lock(file, descriptor)


def _is_held_by_text(file: Path) -> bool:
    """Whether a process holds the file that could not lock it, as on a network drive without locks for a while."""
    holder = _holder_in(file)
    return holder.get(_BY_TEXT) is True and is_running(holder)


def _note_missing_locks(file: Path, place: Path, error: OSError) -> None:
    device = file.parent.stat().st_dev
    if device not in _noted:
        _noted.add(device)
        reason = error.strerror or error
        note(f"{place}: its file system has no locks ({reason}); {file.name} keeps other processes out")


def _taken_without_locks(file: Path) -> _Lock:
    """Write this process into the lock file, unless it names one that runs; one process at a time does so."""
    taking = file.with_name(f"{file.name}.taking")
    descriptor = _created_alone(taking)
    try:
        os.write(descriptor, _own_text(by_text=True))
        holder = _holder_in(file)
        if holder and is_running(holder):
            raise _BusyError(holder)
        os.fsync(descriptor)
        taking.replace(file)
    except BaseException:
        taking.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return _Lock(file, None)


def _created_alone(taking: Path) -> int:
    """Create a file that is not there, and return its descriptor; wait while another process has it."""
    give_up = time.monotonic() + 2 * _TAKING_SECONDS
    while True:
        try:
            return os.open(taking, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            if time.monotonic() >= give_up:
                raise _BusyError(_holder_in(taking)) from None
        _remove_abandoned(taking)
        time.sleep(_POLL_SECONDS / 10)


def _remove_abandoned(taking: Path) -> None:
    """Remove what a process left that was killed while it took a lock."""
    with suppress(OSError):
        holder, age = _holder_in(taking), time.time() - taking.stat().st_mtime
        if not is_running(holder) if holder else age > _TAKING_SECONDS:
            taking.unlink()


def _is_locked(path: Path) -> bool:
    """Whether a process of an earlier version holds a lock on a file or folder, of either kind."""
    try:
        descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.is_dir():
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _IS_LOCKED
    finally:
        os.close(descriptor)
    return False


def _is_same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _own_text(*, by_text: bool = False) -> bytes:
    since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    own = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    of_lock = {_BY_TEXT: True} if by_text else {}
    return json.dumps({**own, "boot": _boot(), "start": _process(os.getpid())[1], **of_lock}).encode()


def _holder_in(file: Path) -> dict[str, Any]:
    """Return what a lock file says of its holder; empty where it says nothing that can be read."""
    try:
        found = json.loads(file.read_bytes()[:4096])
    except (OSError, ValueError, RecursionError):
        return {}
    kinds = {"pid": int, "host": str, "since": str, "boot": str, "start": str}
    if not isinstance(found, dict) or any(type(found.get(key)) is not kind for key, kind in kinds.items()):
        return {}
    return found


def is_running(holder: Mapping[str, Any]) -> bool:
    """Whether the process of a lock file may still run; of another host's process nothing is known, so it may."""
    if holder["host"] != socket.gethostname():
        return True
    if holder["boot"] != _boot():
        return False
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    state, start = _process(holder["pid"])
    return state not in ("Z", "X") and start == holder["start"]


def _boot() -> str:
    """Return what the kernel calls this start of the machine; nothing where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, str]:
    """Return the state of a process and when it started, in the kernel's ticks; nothing where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), fields[19].decode()
    except (OSError, IndexError):
        return "", ""


def _described(holder: Mapping[str, Any]) -> str:
    if not holder or not is_running(holder):  # the holder has not written its name yet
        return "another process"
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"


def _remedy(holder: Mapping[str, Any], file: Path) -> str:
    if holder and holder["host"] != socket.gethostname():
        return f"wait for it, stop it (delete {file} if it runs no more)"
    return "wait for it, stop it"
