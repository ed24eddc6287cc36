"""The catalogue of released files, and their download: resumed after an interruption, checked before each use."""

import functools
import http.client
import json
import math
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from epanns.atomic import fsync, sha256_of, write_json
from epanns.errors import CheckpointError, OutputError, did_you_mean
from epanns.feedback import Progress, note
from epanns.locks import locked
from epanns.text_files import read_json

_CHUNK = 1 << 18  # bytes per read
_TIMEOUT = 30.0  # seconds without an answer
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class ReleasedFile:
    """One published file of weights.

    Attributes:
        name: File name.
        model: The publisher's name of the network.
        network: Row of the zoo with this architecture.
        mAP: On AudioSet's evaluation set, as published.
        url: Address of the file.
        bytes: Length, or None if it is not published.
        sha256: In hexadecimal, or None if it is not published.
        licence: Licence of the weights.
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
    text = (resources.files("epanns") / "models" / "files" / "released_files.json").read_text(encoding="utf-8")
    return tuple(ReleasedFile(**entry) for entry in json.loads(text)["files"])


def released_file(name: str) -> ReleasedFile:
    """Return a file by its name or by the name of its network (``Cnn14_mAP=0.431.pth`` or ``Cnn14``).

    Raises:
        CheckpointError: If the name is unknown.
    """
    by_name = {file.name: file for file in released_files()} | {file.model: file for file in released_files()}
    if name not in by_name:
        raise CheckpointError(
            f"{name}: neither a file nor a released one{did_you_mean(Path(name).name, by_name)}; "
            "`epanns models` lists those epanns can download"
        )
    return by_name[name]


def known_file(path: Path, sha256: str) -> ReleasedFile | None:
    """Return the released file with this sha256, which `path` may have under any name; None without one.

    Raises:
        CheckpointError: If `path` has the name of a released file with another sha256.
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


def cache_folder() -> Path:
    """Return the folder of downloads: ``$EPANNS_CACHE``, or ``~/.cache/epanns-pruning``."""
    return Path(os.environ.get("EPANNS_CACHE") or Path.home() / ".cache" / "epanns-pruning")


def fetch(file: ReleasedFile, folder: Path, *, progress: Progress | None = None) -> Path:
    """Return `file` in `folder`; download it if it is missing or has another sha256.

    Bytes are written to ``NAME.part``. After an interruption the next call resumes it if the server still has the same
    version (``If-Range`` with the validator in ``NAME.part.json``). Without a validator, a part is resumed only if the
    sha256 of the whole file is known. One process downloads a file; others wait for it.

    Args:
        file: Entry of the catalogue.
        folder: Folder for the file; created if it is missing.
        progress: Called with the bytes so far and the total (None if unknown).

    Raises:
        CheckpointError: If the network fails or the bytes are not those of the catalogue.
        OutputError: If the folder cannot be written.
    """
    path = folder / file.name
    try:
        if _is_published(file, path):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{file.name}.lock", path, wait=math.inf):
            if _is_published(file, path):  # downloaded by another process in the meantime
                return path
            part = _Part(folder / f"{file.name}.part")
            with part.path.open("ab") as opened:
                try:
                    if file.bytes is None or part.length() != file.bytes:
                        _receive(file, part, opened, progress or (lambda done, total: None))
                finally:
                    opened.flush()
                    if not part.length():
                        part.remove()
            _check_part(file, part)
            part.path.replace(path)
            part.remove()
        fsync(folder)
    except OSError as error:  # of the disk: errors of the network are CheckpointErrors
        raise OutputError(f"{folder}: cannot be written ({error}): free space, or set EPANNS_CACHE") from error
    return path


def _is_published(file: ReleasedFile, path: Path) -> bool:
    if not path.is_file():
        return False
    if file.sha256 is None or (found := sha256_of(path)) == file.sha256:
        return True
    note(f"{path}: sha256 {found}, must be {file.sha256}: the file in the cache is damaged or another and is replaced")
    return False


@dataclass(frozen=True)
class _Part:
    """The first bytes of a download, and a file beside them with the validator of their version."""

    path: Path

    @property
    def _validator_path(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def length(self) -> int:
        """Return the number of bytes that were downloaded so far."""
        return self.path.stat().st_size

    def validator(self, url: str) -> str:
        """Return the validator of the version of the bytes; empty if it is unknown."""
        try:
            stored = read_json(self._validator_path, error=CheckpointError, limit=4096)
        except CheckpointError:
            return ""
        found = stored.get("validator") if isinstance(stored, dict) and stored.get("url") == url else None
        # The validator becomes a header, in which a line end would begin another header.
        return found if isinstance(found, str) and re.fullmatch(r"[\x20-\x7e]{1,1000}", found) else ""

    def start_over(self, opened: BinaryIO, url: str, validator: str) -> None:
        """Remove the bytes, and store the validator of the version that follows."""
        opened.truncate(0)
        self._validator_path.unlink(missing_ok=True)
        if validator:
            write_json(self._validator_path, {"url": url, "validator": validator})

    def remove(self) -> None:
        """Delete the part and its validator, if they exist."""
        self.path.unlink(missing_ok=True)
        self._validator_path.unlink(missing_ok=True)


def _receive(file: ReleasedFile, part: _Part, opened: BinaryIO, progress: Progress) -> None:
    """Append the missing bytes to a part; start over if the server has another version or cannot resume."""
    done = part.length()
    validator = part.validator(file.url)
    if (file.bytes is not None and done > file.bytes) or not (validator or file.sha256):
        done = 0
    with _open(file, done, validator) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            part.start_over(opened, file.url, _validator_of(response))
            done = 0
        is_delimited = response.length is not None or response.chunked  # http.client detects a cut of both
        # The length of the whole file, not of the answer: a server may send fewer bytes than are missing.
        given = response.headers.get("Content-Range", "") if response.status == http.client.PARTIAL_CONTENT else ""
        stated = re.fullmatch(r"bytes \d+-\d+/(\d{1,18})", given)
        left = None if response.length is None else done + response.length
        total = (left if stated is None else int(stated[1])) or file.bytes
        for chunk in _chunks(file, response):
            opened.write(chunk)
            done += len(chunk)
            progress(done, total)
            if file.bytes is not None and done > file.bytes:  # the rest would fill the disk; `_check_part` refuses it
                total = done
                break
        opened.flush()
        os.fsync(opened.fileno())
    if total is not None and done < total:
        raise _failure(file, f"the connection ended after {done:,} of {total:,} bytes")
    if not (is_delimited or total is not None or file.sha256):
        part.start_over(opened, file.url, "")
        raise _failure(file, f"{done:,} bytes arrived, and neither server nor catalogue states how many there are")


def _open(file: ReleasedFile, start: int, validator: str = "") -> http.client.HTTPResponse:
    """Request a file from byte `start` on; the whole file if the server has another version."""
    headers = {"User-Agent": "epanns"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    request = urllib.request.Request(file.url, headers=headers)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == _RANGE_NOT_SATISFIABLE:  # the part does not belong to the present version
            return _open(file, 0)
        raise _failure(file, f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _failure(file, f"no connection ({getattr(error, 'reason', error)})") from error
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise _failure(file, "the server answered with a web page, as a login to a network does")
    if start and response.status == http.client.PARTIAL_CONTENT:
        given, version = response.headers.get("Content-Range", f"bytes {start}-"), _validator_of(response)
        if not given.startswith(f"bytes {start}-") or (validator and version not in ("", validator)):
            response.close()
            return _open(file, 0)
    return response


def _validator_of(response: http.client.HTTPResponse) -> str:
    """Return the validator of a version: the ETag if it is a strong one, else the date."""
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
        f"{file.url}: {reason}; run the command again to resume the download, or download the file by hand, also on "
        "another machine, and give its path: epanns import FILE --out DIR"
    )


def _check_part(file: ReleasedFile, part: _Part) -> None:
    """Remove a part whose length or sha256 is not that of the catalogue, and raise."""
    size = part.length()
    problem = f"{size:,} bytes, must be {file.bytes:,}" if file.bytes is not None and size != file.bytes else ""
    if not problem and file.sha256 is not None and (found := sha256_of(part.path)) != file.sha256:
        problem = f"sha256 {found}, must be {file.sha256}"
    if problem:
        part.remove()
        raise CheckpointError(
            f"{file.url}: what arrived is not the published file ({problem}) and was deleted: run the command again; "
            "if it repeats, the server or a proxy changes the file"
        )
