"""The catalogue of released files, and their download: resumed after an interruption, checked before each use."""

import errno
import fcntl
import functools
import http.client
import json
import os
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from epanns.atomic import fsync_folder, sha256_of, write_json
from epanns.errors import CheckpointError, OutputError, did_you_mean
from epanns.feedback import Progress, note
from epanns.text_files import read_json


@dataclass(frozen=True)
class ReleasedFile:
    """One published weight file.

    Attributes:
        name: File name.
        model: The publisher's name of the network.
        network: Row of the zoo that reads it.
        mAP: On AudioSet's evaluation set, as published.
        url: Where it is published.
        bytes: Length, or None where nobody has said.
        sha256: In hexadecimal, or None where nobody has said.
        licence: Under which terms.
    """

    name: str
    model: str
    network: str
    mAP: float  # noqa: N815 (the field's spelling)
    url: str
    bytes: int | None
    sha256: str | None
    licence: str


@functools.cache
def released_files() -> tuple[ReleasedFile, ...]:
    """Return the catalogue, in the order of its file."""
    text = (resources.files("epanns") / "models" / "released_files.json").read_text(encoding="utf-8")
    return tuple(ReleasedFile(**entry) for entry in json.loads(text)["files"])


def released_file(name: str) -> ReleasedFile:
    """Find a file by its own name or by its network's (``Cnn14_mAP=0.431.pth`` or ``Cnn14``).

    Raises:
        CheckpointError: If it is unknown; the nearest name is offered.
    """
    by_name = {file.name: file for file in released_files()} | {file.model: file for file in released_files()}
    if name not in by_name:
        raise CheckpointError(
            f"{name}: neither a file nor a released one{did_you_mean(Path(name).name, by_name)}; "
            "`epanns models` lists those epanns can download"
        )
    return by_name[name]


def known_file(path: Path, sha256: str) -> ReleasedFile | None:
    """Return the released file that this one is by its contents; its name decides nothing.

    Raises:
        CheckpointError: If it has the name of a released file whose sha256 is known, and other contents.
    """
    if by_contents := next((file for file in released_files() if file.sha256 == sha256), None):
        return by_contents
    named = next((file for file in released_files() if file.name == path.name and file.sha256), None)
    if named is not None:
        raise CheckpointError(
            f"{path}: sha256 {sha256}, must be {named.sha256} of the released file with this name: it is damaged or "
            "another file: download it again or, if it is a network of your own, rename it"
        )
    return None


_CHUNK = 1 << 18  # bytes per read
_TIMEOUT = 30.0  # seconds without an answer
_ABANDONED = 4 * _TIMEOUT  # seconds after which no process writes to a part, where the file system has no locks
_RANGE_NOT_SATISFIABLE = 416
_IS_LOCKED = (errno.EACCES, errno.EAGAIN)


def cache_folder() -> Path:
    """Return where downloads are kept: ``$EPANNS_CACHE``, or ``~/.cache/epanns-pruning``."""
    return Path(os.environ.get("EPANNS_CACHE") or Path.home() / ".cache" / "epanns-pruning")


def fetch(file: ReleasedFile, folder: Path, *, progress: Progress | None = None) -> Path:
    """Return `file` in `folder`, downloaded if it is not there yet or is not the published file.

    A file that is there is compared with its sha256 each time. Bytes arrive in a part of this process's own,
    ``NAME.<random>.part``; an interruption leaves it, and a later call resumes it if the server still has the same
    file (``If-Range`` with the validator that stands beside the part). A part whose validator is not known is resumed
    only where the sha256 of the whole file is.

    Args:
        file: What to get.
        folder: Where to; made if needed.
        progress: Called with bytes so far and bytes in all (None where unknown).

    Raises:
        CheckpointError: If the network fails or the bytes are not those of the catalogue.
        OutputError: If the folder cannot be written.
    """
    path = folder / file.name
    try:
        if path.is_file() and _is_published(file, path):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with _own_part(file, folder) as part:
            if file.bytes is None or part.length() != file.bytes:
                _receive(file, part, progress or (lambda done, total: None))
            _verify(file, part)
            part.path.replace(path)
        fsync_folder(folder)
    except OSError as error:  # those of the network have become CheckpointErrors by now
        raise OutputError(f"{folder}: cannot be written ({error}): free space, or set EPANNS_CACHE") from error
    return path


def _is_published(file: ReleasedFile, path: Path) -> bool:
    if file.sha256 is None or (found := sha256_of(path)) == file.sha256:
        return True
    note(f"{path}: sha256 {found}, must be {file.sha256}: the file in the cache is damaged or another and is replaced")
    return False


@dataclass(frozen=True)
class _Part:
    """A file that holds the first bytes of a download, and the file beside it that says of which version.

    Attributes:
        path: The part.
        file: It, open for reading and writing; locked where the file system has locks.
    """

    path: Path
    file: BinaryIO

    @property
    def validator_path(self) -> Path:
        """Where the validator of the part is kept."""
        return self.path.with_name(self.path.name + ".json")

    def length(self) -> int:
        """Return the bytes of the part."""
        return os.fstat(self.file.fileno()).st_size

    def validator(self, url: str) -> str:
        """Return the validator of the version that the bytes are of; empty where none is known."""
        try:
            stored = read_json(self.validator_path, error=CheckpointError, limit=4096)
        except CheckpointError:
            return ""
        found = stored.get("validator") if isinstance(stored, dict) and stored.get("url") == url else None
        # It becomes a header: a line end in it would begin another.
        return found if isinstance(found, str) and re.fullmatch(r"[\x20-\x7e]{1,1000}", found) else ""

    def start_over(self, url: str, validator: str) -> None:
        """Drop the bytes, and store the validator of the version that comes."""
        self.file.truncate(0)
        self.validator_path.unlink(missing_ok=True)
        if validator:
            write_json(self.validator_path, {"url": url, "validator": validator})

    def remove(self) -> None:
        """Delete the part and its validator."""
        self.path.unlink(missing_ok=True)
        self.validator_path.unlink(missing_ok=True)


@contextmanager
def _own_part(file: ReleasedFile, folder: Path) -> Iterator[_Part]:
    """Yield the longest part that no process writes to, or a new one; behind it, remove the others and empty ones."""
    abandoned = sorted(_abandoned_parts(file, folder), key=_Part.length)
    part = abandoned.pop() if abandoned else _new_part(file, folder)
    try:
        yield part
    finally:
        with suppress(OSError):
            part.file.flush()
            is_in_use = part.path.exists() and part.length() > 0
            for other in abandoned if is_in_use else [*abandoned, part]:
                other.remove()
        for other in (*abandoned, part):
            other.file.close()


def _new_part(file: ReleasedFile, folder: Path) -> _Part:
    path = folder / f"{file.name}.{secrets.token_hex(4)}.part"
    opened = path.open("x+b")
    _is_locked(opened)
    return _Part(path, opened)


def _abandoned_parts(file: ReleasedFile, folder: Path) -> Iterator[_Part]:
    pattern = re.compile(re.escape(file.name) + r"(\.[0-9a-f]{8})?\.part")  # without digits: of earlier versions
    for path in [path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file()]:
        with suppress(FileNotFoundError):  # another process finished it
            opened = path.open("r+b")
            if not _is_locked(opened) and path.exists():
                yield _Part(path, opened)
            else:
                opened.close()


def _is_locked(file: BinaryIO) -> bool:
    """Lock a part for this process; return whether another process writes to it."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        status = os.fstat(file.fileno())
        return error.errno in _IS_LOCKED or (status.st_size > 0 and time.time() - status.st_mtime < _ABANDONED)
    return False


def _receive(file: ReleasedFile, part: _Part, progress: Progress) -> None:
    """Append what is missing to a part; start again where the server has another version or cannot resume."""
    done = part.length()
    validator = part.validator(file.url)
    if (file.bytes is not None and done > file.bytes) or not (validator or file.sha256):
        done = 0
    with _open(file, done, validator) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            part.start_over(file.url, _validator_of(response))
            done = 0
        is_delimited = response.length is not None or response.chunked  # http.client finds a cut of both
        total = _stated_total(response, done) or file.bytes
        part.file.seek(done)
        for chunk in _chunks(file, response):
            part.file.write(chunk)
            done += len(chunk)
            progress(done, total)
            if file.bytes is not None and done > file.bytes:  # the rest would fill the disk; `_verify` refuses the part
                total = done
                break
        part.file.flush()
        os.fsync(part.file.fileno())
    if total is not None and done < total:
        raise _failure(file, f"the connection ended after {done:,} of {total:,} bytes")
    if not (is_delimited or total is not None or file.sha256):
        part.start_over(file.url, "")
        raise _failure(file, f"{done:,} bytes arrived, and neither server nor catalogue states how many there are")


def _open(file: ReleasedFile, start: int, validator: str = "") -> http.client.HTTPResponse:
    headers = {"User-Agent": "epanns"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    request = urllib.request.Request(file.url, headers=headers)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == _RANGE_NOT_SATISFIABLE:  # the part is no piece of what the server has now
            return _open(file, 0)
        raise _failure(file, f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _failure(file, f"no connection ({getattr(error, 'reason', error)})") from error
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise _failure(file, "the server answered with a web page, as a login to a network does")
    if start and response.status == http.client.PARTIAL_CONTENT and not _continues(response, start, validator):
        response.close()
        return _open(file, 0)
    return response


def _continues(response: http.client.HTTPResponse, start: int, validator: str) -> bool:
    """Return whether a partial answer begins where it was asked to, and is of the same version as far as it says."""
    given = response.headers.get("Content-Range", f"bytes {start}-")
    return given.startswith(f"bytes {start}-") and _validator_of(response) in ("", validator or _validator_of(response))


def _stated_total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Return the length of the whole file; a server may answer with less than all that is missing."""
    if response.status == http.client.PARTIAL_CONTENT:
        stated = re.fullmatch(r"bytes \d+-\d+/(\d{1,18})", response.headers.get("Content-Range", ""))
        if stated is not None:
            return int(stated[1])
    return None if response.length is None else start + response.length


def _validator_of(response: http.client.HTTPResponse) -> str:
    """Return what names the version of a file: its ETag, if that is a strong one, or else its date."""
    etag = response.headers.get("ETag") or ""
    return etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""


def _chunks(file: ReleasedFile, response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _failure(file, f"the connection broke ({error})") from error
        if not chunk:
            return
        yield chunk


def _failure(file: ReleasedFile, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file.url}: {reason}; run the command again to resume with what has arrived, or download the file by hand, "
        "also on another machine, and give its path: epanns import FILE --out DIR"
    )


def _verify(file: ReleasedFile, part: _Part) -> None:
    """Remove the part and raise where its length or checksum is not that of the catalogue."""
    size = part.length()
    problem = f"{size:,} bytes, must be {file.bytes:,}" if file.bytes is not None and size != file.bytes else ""
    if not problem and file.sha256 is not None and (found := sha256_of(part.path)) != file.sha256:
        problem = f"sha256 {found}, must be {file.sha256}"
    if problem:
        part.remove()
        raise CheckpointError(
            f"{file.url}: what arrived is not the published file ({problem}) and was deleted: run the command again; "
            "where it repeats, the server or something between changes the file"
        )
