"""The packer's journal: what is finished, so that a stopped run goes on where it was.

``journal.jsonl`` is appended to, one shard at a time. Its first line says what is packed and how; a shard is one line
per clip, then one for the shard itself. A shard counts only with its own line: what a killed run left behind it is cut.
"""

import fcntl
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from epanns.data.conversion import PackedClip
from epanns.data.manifest import Clip
from epanns.data.pack_format import JOURNAL_FILE, PACK_FILE, REJECTS_FILE, ShardInfo
from epanns.errors import OutputError

_BEGIN = '{"header": '
_PACK_FILES = re.compile(
    rf"({re.escape(PACK_FILE)}|{re.escape(JOURNAL_FILE)}|{re.escape(REJECTS_FILE)}|shard-\d{{5,}}\.h5)(\.partial)?"
)


@dataclass(frozen=True)
class ShardEntry:
    """A finished part of the manifest.

    Attributes:
        number: Which part, from 0.
        shard: Its file; None where every clip of the part was rejected.
        clipped: Rows with limited samples.
        silent: Rows of zeros.
        rejects: Clip id, path and reason of each reject.
    """

    number: int
    shard: ShardInfo | None
    clipped: int
    silent: int
    rejects: tuple[tuple[str, str, str], ...]


class Journal:
    """The journal of one pack's folder, locked against a second packer while it is open.

    Attributes:
        finished: Shards that are in place and whose audio files are as they were, by number.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
        """Open or begin the journal.

        Args:
            folder: The pack's folder, made where it does not exist.
            header: What must be equal for the run to be continued.
            paths: Clip id -> audio file, to find what has changed since.

        Raises:
            OutputError: If the folder holds another pack, something else, or is being written by another process.
        """
        self.folder = folder
        self._paths = paths
        self._path = folder / JOURNAL_FILE
        if folder.exists() and not self._path.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} exists already and is no pack: choose another --out or delete it first")
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+", encoding="utf-8", errors="replace", newline="\n")
        try:
            _lock(self._file, folder)
            self.finished = self._read(json.loads(json.dumps(header)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, entry: ShardEntry, clips: Sequence[Clip], packed: Sequence[PackedClip]) -> None:
        """Add a finished shard and flush it to the disk."""
        lines = [_clip_line(clip, result) for clip, result in zip(clips, packed, strict=True)]
        shard = None if entry.shard is None else asdict(entry.shard)
        self._append([*lines, {"shard": entry.number, "of": shard, "clipped": entry.clipped, "silent": entry.silent}])
        self.finished[entry.number] = entry

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(line) + "\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, header: dict[str, Any]) -> dict[int, ShardEntry]:
        """Return the finished shards and cut whatever follows the last of them."""
        self._file.seek(0)
        finished: dict[int, ShardEntry] = {}
        pending: list[dict[str, Any]] = []
        whole_until = 0
        while line := self._file.readline():
            record = _parse(line)
            if record is None:
                break
            if "header" in record:
                refuse_difference(self.folder, record["header"], header)
                whole_until = self._file.tell()
            elif "shard" in record:
                finished.pop(record["shard"], None)
                if self._is_current(record, pending):
                    finished[record["shard"]] = _entry_of(record, pending)
                pending = []
                whole_until = self._file.tell()
            else:
                pending.append(record)
        self._cut_after(whole_until)
        if whole_until == 0:
            self._append([{"header": header}])
        return finished

    def _cut_after(self, whole_until: int) -> None:
        """Remove the lines of a shard that was not finished, but never a file that is not ours."""
        self._file.seek(0)
        begin = self._file.read(len(_BEGIN))
        if whole_until == 0 and begin != _BEGIN[: len(begin)]:
            raise OutputError(_not_ours(self._path))
        self._file.truncate(whole_until)

    def _is_current(self, record: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the shard is in place and every file it was made from is as it was."""
        if record["of"] is not None and not (self.folder / record["of"]["file"]).is_file():
            return False
        return all(
            line["clip_id"] in self._paths
            and _state_of(self._paths[line["clip_id"]]) == _recorded_state(line["source"])
            for line in lines
        )


def remove_pack(folder: Path) -> None:
    """Delete an earlier pack, finished or not, so that packing starts over; a folder without a journal is left alone.

    An empty journal stays behind: another process that has it open must meet the same lock, not a deleted file's.

    Raises:
        OutputError: If the journal is not ours, the folder holds anything but a pack, or another process writes it;
            nothing is deleted then.
    """
    path = folder / JOURNAL_FILE
    if not path.is_file():
        return
    with path.open("r+", encoding="utf-8", errors="replace", newline="\n") as journal:
        _lock(journal, folder)
        if not _is_header(journal.readline()):
            raise OutputError(_not_ours(path))
        files = sorted(folder.iterdir())
        foreign = [file.name for file in files if not _PACK_FILES.fullmatch(file.name) or not file.is_file()]
        if foreign:
            raise OutputError(
                f"{folder} holds {foreign[0]!r}, which is no part of a pack, so --fresh deletes nothing: move it away "
                "or choose another --out"
            )
        for file in files:  # pack.json comes before the shards: half a pack must not look finished
            if file != path:
                file.unlink()
        journal.truncate(0)


def _lock(journal: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"{folder} is being written by another process: wait for it or stop it") from error


def _is_header(line: str) -> bool:
    """Whether a journal's first line is ours; a killed run may have left half of it, or none."""
    if not line.endswith("\n"):
        return line.startswith(_BEGIN) or _BEGIN.startswith(line)
    header = (_parse(line) or {}).get("header")
    return isinstance(header, dict) and "manifest_sha256" in header


def _not_ours(path: Path) -> str:
    return f"{path} is no journal of epanns: choose another --out or delete it first"


def refuse_difference(folder: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise unless the pack at `folder` was begun with what is wanted now."""
    for key, value in wanted.items():
        if held.get(key) != value:
            raise OutputError(
                f"{folder} holds a pack with {key}={_short(held.get(key))}, asked for is {_short(value)}: "
                "choose another --out, or start over with --fresh"
            )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _parse(line: str) -> dict[str, Any] | None:
    """Return a journal line, or None where a killed run left half of one."""
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _clip_line(clip: Clip, packed: PackedClip) -> dict[str, Any]:
    return {
        "clip_id": clip.clip_id,
        "path": clip.path,
        "source": None if packed.source is None else asdict(packed.source),
        "crc32": packed.crc32,
        "reason": packed.reason,
    }


def make_entry(number: int, shard: ShardInfo | None, clips: Sequence[Clip], packed: Sequence[PackedClip]) -> ShardEntry:
    """Sum up a part of the manifest after its shard is written."""
    pairs = list(zip(clips, packed, strict=True))
    return ShardEntry(
        number=number,
        shard=shard,
        clipped=sum(result.n_clipped > 0 for result in packed),
        silent=sum(result.is_silent for result in packed),
        rejects=tuple((clip.clip_id, clip.path, result.reason) for clip, result in pairs if result.reason),
    )


def _entry_of(record: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> ShardEntry:
    return ShardEntry(
        number=record["shard"],
        shard=None if record["of"] is None else ShardInfo(**record["of"]),
        clipped=record["clipped"],
        silent=record["silent"],
        rejects=tuple((line["clip_id"], line["path"], line["reason"]) for line in lines if line["reason"]),
    )


def _recorded_state(source: Mapping[str, Any] | None) -> tuple[int, int] | None:
    return None if source is None else (source["size"], source["mtime_ns"])


def _state_of(path: Path) -> tuple[int, int] | None:
    """Return size and time of change of a file, or None where it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
