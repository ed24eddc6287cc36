"""Download a released file once, go on after an interruption, and check it before it gets its name."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from epanns.atomic import fsync_folder, sha256_of
from epanns.errors import CheckpointError, OutputError
from epanns.models.catalogue import ReleasedFile
from epanns.progress import Progress

_CHUNK = 1 << 18  # bytes per read
_TIMEOUT = 30.0  # seconds without an answer
_RANGE_NOT_SATISFIABLE = 416


def cache_folder() -> Path:
    """Return where downloads are kept: ``$EPANNS_CACHE``, or ``~/.cache/epanns-pruning``."""
    return Path(os.environ.get("EPANNS_CACHE") or Path.home() / ".cache" / "epanns-pruning")


def fetch(file: ReleasedFile, folder: Path, *, progress: Progress | None = None) -> Path:
    """Return `file` in `folder`, downloaded if it is not there yet.

    Bytes arrive in ``NAME.part``, which an interruption leaves and the next call goes on from.

    Args:
        file: What to get.
        folder: Where to; made if needed.
        progress: Called with bytes so far and bytes in all (None where unknown).

    Raises:
        CheckpointError: If the network fails or the bytes are not those of the catalogue.
        OutputError: If the folder cannot be written.
    """
    path = folder / file.name
    if path.is_file():
        return path  # it got this name after its check
    part = folder / (file.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.bytes is None or not part.is_file() or part.stat().st_size != file.bytes:
            _receive(file, part, progress or (lambda done, total: None))
        _verify(file, part)
        part.replace(path)
        fsync_folder(folder)
    except OSError as error:  # those of the network have become CheckpointErrors by now
        raise OutputError(f"{folder}: cannot be written ({error}): free space, or set EPANNS_CACHE") from error
    return path


def _receive(file: ReleasedFile, part: Path, progress: Progress) -> None:
    """Append what is missing to `part`; start again where the server cannot go on."""
    done = part.stat().st_size if part.is_file() else 0
    if file.bytes is not None and done > file.bytes:
        done = 0
    with _open(file, done) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            done = 0
        length = response.length  # what this answer holds, None where the server does not say
        total = file.bytes if length is None else done + length
        with part.open("r+b" if done else "wb") as target:
            target.seek(done)
            for chunk in _chunks(file, response):
                target.write(chunk)
                done += len(chunk)
                progress(done, total)
            os.fsync(target.fileno())
    if total is not None and done < total:
        raise _failure(file, f"the connection ended after {done:,} of {total:,} bytes")


def _open(file: ReleasedFile, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "epanns"} | ({"Range": f"bytes={start}-"} if start else {})
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
    return response


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
        f"{file.url}: {reason}; run the command again to go on from what has arrived, or download the file by hand, "
        "also on another machine, and give its path: epanns import FILE --out DIR"
    )


def _verify(file: ReleasedFile, part: Path) -> None:
    """Delete the part and raise where its length or checksum is not that of the catalogue."""
    size = part.stat().st_size
    problem = f"{size:,} bytes, must be {file.bytes:,}" if file.bytes is not None and size != file.bytes else ""
    if not problem and file.sha256 is not None and (found := sha256_of(part)) != file.sha256:
        problem = f"sha256 {found}, must be {file.sha256}"
    if problem:
        part.unlink()
        raise CheckpointError(
            f"{file.url}: what arrived is not the published file ({problem}) and was deleted: run the command again; "
            "where it repeats, the server or something between changes the file"
        )
