"""Locks between processes: a lock file has one holder, also on a file system without locks.

The lock is the kernel's (``flock``), so it ends with the process. The file names its holder in JSON, for the message to
a second process; a file without a holder is reused. If the file system refuses ``flock``, the content of the file is
the lock: it is valid while the process that it names runs, also for processes that can lock the file.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from epanns.errors import OutputError
from epanns.feedback import note

_IS_LOCKED = frozenset({errno.EACCES, errno.EAGAIN})
_HAS_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_BY_TEXT = "by_text"  # key of a holder whose file system has no locks
_POLL_SECONDS = 0.1
_TAKING_SECONDS = 2.0  # a process that acquires a lock writes its name in far less

_held: set[int] = set()  # descriptors of locks that this process holds
_noted: set[int] = set()  # file systems without locks, after the note about them


class _BusyError(Exception):
    """Another process holds the lock; `holder` is the content of the lock file."""

    def __init__(self, holder: Mapping[str, Any]) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def locked(file: Path, place: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file for the duration of a block; the file is removed at the end.

    The file of a process that was killed does not block other processes. Processes that are forked in the block do not
    hold the lock. An error that is raised in the block propagates unchanged. Messages name `place`, which the lock
    protects; `wait` is in seconds.

    Raises:
        OutputError: If another process holds the lock, or the lock file cannot be written.
    """
    lock = _acquire(file, place, wait)
    try:
        yield
    finally:
        lock.release()


class _Lock:
    """A lock that is held through a descriptor or, where the file system has no locks, by the file's content."""

    def __init__(self, file: Path, descriptor: int | None) -> None:
        self._file, self._descriptor, self._pid = file, descriptor, os.getpid()
        if descriptor is not None:
            _held.add(descriptor)

    def release(self) -> None:
        """Remove the lock file and release the lock; a forked copy of the holder does nothing."""
        if os.getpid() != self._pid:
            return
        with suppress(OSError):  # moved away or not writable any more: the lock ends with its descriptor or its process
            own = (
                _holder_in(self._file).get("pid") == self._pid
                if self._descriptor is None
                else _is_same_file(self._descriptor, self._file)
            )
            if own:
                self._file.unlink()
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.close(self._descriptor)


def _close_inherited() -> None:
    """Close the locks of the parent in a process that was forked, so that they end with the parent."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _acquire(file: Path, place: Path, wait: float) -> _Lock:
    """Take the lock, waiting for another holder; errors as in `locked`."""
    deadline, is_noted = time.monotonic() + wait, False
    while True:
        try:
            return _try_to_acquire(file, place)
        except _BusyError as busy:
            holder, who = busy.holder, "another process"
            if holder and is_running(holder):  # otherwise the holder has not written its name yet
                who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
            if time.monotonic() >= deadline:
                remedy = "wait for it, stop it"
                if holder and holder["host"] != socket.gethostname():
                    remedy += f" (delete {file} if it no longer runs)"
                raise OutputError(f"{place} is in use by {who}: {remedy} or choose another --out") from None
            if not is_noted:
                note(f"{place}: waiting for {who}")
            is_noted = True
        except OSError as error:
            raise OutputError(
                f"{place}: cannot be written ({error.strerror or error}): choose another --out, or correct its "
                "permissions or its disk"
            ) from error
        time.sleep(_POLL_SECONDS)


def _try_to_acquire(file: Path, place: Path) -> _Lock:
    """Take the lock or raise `_BusyError`; an OSError is about the lock file itself."""
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
            if (device := file.parent.stat().st_dev) not in _noted:
                _noted.add(device)
                reason = error.strerror or error
                note(f"{place}: its file system has no locks ({reason}); {file.name} keeps other processes out")
            return _acquire_by_text(file)
        os.close(descriptor)  # the holder removed the file between the two calls
    holder = _holder_in(file)
    if holder.get(_BY_TEXT) is True and is_running(holder):  # a process that could not lock the file
        os.close(descriptor)
        raise _BusyError(holder)
    with suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _own_text())
    return _Lock(file, descriptor)


def _acquire_by_text(file: Path) -> _Lock:
    """Write this process into the lock file unless it names a running process; ``.taking`` makes that exclusive."""
    taking = file.with_name(f"{file.name}.taking")
    descriptor = _create_exclusively(taking)
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


def _create_exclusively(taking: Path) -> int:
    """Create a file and return its descriptor; wait while it exists, and remove it if its process was killed."""
    deadline = time.monotonic() + 2 * _TAKING_SECONDS
    while True:
        try:
            return os.open(taking, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            if time.monotonic() >= deadline:
                raise _BusyError(_holder_in(taking)) from None
        with suppress(OSError):
            holder, age = _holder_in(taking), time.time() - taking.stat().st_mtime
            if not is_running(holder) if holder else age > _TAKING_SECONDS:
                taking.unlink()
        time.sleep(_POLL_SECONDS / 10)


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
    """Return the holder that a lock file names; empty if it cannot be read."""
    try:
        found = json.loads(file.read_bytes()[:4096])
    except (OSError, ValueError, RecursionError):
        return {}
    kinds = {"pid": int, "host": str, "since": str, "boot": str, "start": str}
    if not isinstance(found, dict) or any(type(found.get(key)) is not kind for key, kind in kinds.items()):
        return {}
    return found


def is_running(holder: Mapping[str, Any]) -> bool:
    """Return whether the holder of a lock file may still run; a process of another host always may."""
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
    """Return the kernel's identifier of this boot of the machine; empty without /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, str]:
    """Return the state of a process and its start time in kernel ticks; empty without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), fields[19].decode()
    except (OSError, IndexError):
        return "", ""
