"""The packer's journal: the finished shards, so that a stopped run is resumed.

``journal.jsonl`` grows by one shard at a time. Its first line is the header: what is packed, and how. A shard is one
line per clip, then one line for the shard itself. Lines that a killed run left after the last shard are removed. Of the
lines of clips, only the offsets are kept in memory, so that a pack may have millions.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from epanns import atomic
from epanns.data.clip import Clip
from epanns.data.packing.conversion import PackedClip, SourceState, is_readable, is_unchanged
from epanns.data.packs.pack_format import JOURNAL_FILE, NOTES, SHARD_RULES, PackCounts, ShardInfo
from epanns.errors import ConfigError, DataError, OutputError
from epanns.packages import can_import
from epanns.strict import TABLE, from_table, integer, or_none, table_problems
from epanns.text_files import parse_json
from epanns.workfolder import Work, WorkFolder

_BEGIN, _CLIP_BEGIN = b'{"header": ', b'{"clip_id": '
_DECODERS = ("av",)  # packages that decode, and that may be installed later
_MOST = (1 << 63) - 1
_COUNTS = tuple(field.name for field in fields(PackCounts) if field.name in NOTES)  # of rows, in a shard's line
_SHARD_LINE = {
    "shard": integer(0, _MOST),
    "of": or_none(TABLE),
    **{name: integer(0, _MOST) for name in ("clips", "rejected", *_COUNTS)},
}


@dataclass(frozen=True)
class ShardEntry:
    """A finished shard.

    Attributes:
        number: Number of the shard, from 0.
        shard: Its file; None if every clip was rejected.
        clips: Number of clips, rejected ones included.
        rejected: Number of clips without a row.
        notes: Number of rows to which each of `NOTES` applies.
    """

    number: int
    shard: ShardInfo | None
    clips: int
    rejected: int
    notes: Mapping[str, int]


class JournalRecords:
    """The finished shards of a journal at the time when it was read.

    Attributes:
        path: The journal.
        header: What is packed, and how; None if the journal has no header.
        finished: Shards that were in place when they were written, by number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Any = None
        self.finished: dict[int, ShardEntry] = {}
        self._offsets: dict[int, int] = {}  # of the lines of a finished shard's clips
        self._written: list[int] = []  # numbers of all shards that have lines, in the order of the lines

    @classmethod
    def read(cls, path: Path) -> "JournalRecords":
        """Read a journal that another process may be writing, without locking or changing it.

        Raises:
            OSError: If it cannot be read.
        """
        records = cls(path)
        with path.open("rb") as file:
            records._scan(file)
        return records

    def is_current(self, number: int, clips: Sequence[Clip]) -> bool:
        """Return whether a shard is finished, its audio files are unchanged, and no reject is due for a retry."""
        entry = self.finished.get(number)
        return (entry is not None and entry.clips == len(clips)) and all(
            _is_unchanged(line, clip) and not _is_to_retry(line)
            for line, clip in zip(self.lines_of(entry), clips, strict=True)
        )

    def n_to_retry(self, number: int, clips: Sequence[Clip]) -> int:
        """Return the number of rejects of a finished shard that are due for a retry.

        A reject is retried if its file changed, if its decoder was installed since, or if a process died at it.
        """
        entry = self.finished.get(number)
        if entry is None or not entry.rejected or entry.clips != len(clips):
            return 0
        return sum(
            bool(line.get("reason")) and (_is_to_retry(line) or not _is_unchanged(line, clip))
            for line, clip in zip(self.lines_of(entry), clips, strict=True)
        )

    def lost_source(self, number: int, clips: Sequence[Clip]) -> str | None:
        """Return the first audio file of a shard that has a row and can no longer be read, or None."""
        entry = self.finished.get(number)
        lines = self.lines_of(entry) if entry is not None and entry.clips == len(clips) else ({} for _ in clips)
        for line, clip in zip(lines, clips, strict=True):
            if not line.get("reason") and not is_readable(clip.path):
                return clip.path
        return None

    def rejects(self) -> Iterator[tuple[str, str, str]]:
        """Yield clip id, path and reason of each reject, in the manifest's order."""
        for _, entry in sorted(self.finished.items()):
            for line in self.lines_of(entry) if entry.rejected else ():
                if line.get("reason"):
                    yield str(line.get("clip_id", "")), str(line.get("path", "")), str(line["reason"])

    def notes(self) -> Iterator[tuple[str, str, dict[str, int]]]:
        """Yield clip id, path and `NOTES` of each row that differs from its clip, in the manifest's order."""
        is_count = integer(1, _MOST).holds
        for _, entry in sorted(self.finished.items()):
            for line in self.lines_of(entry) if any(entry.notes.values()) else ():
                notes = {name: line[name] for name in NOTES if is_count(line.get(name))}
                if notes:
                    yield str(line.get("clip_id", "")), str(line.get("path", "")), notes

    def lines_of(self, entry: ShardEntry) -> Iterator[dict[str, Any]]:
        """Yield the line of each clip of a finished shard, which has a `reason` if the clip is rejected."""
        with self.path.open("rb") as file:
            file.seek(self._offsets[entry.number])
            for _ in range(entry.clips):
                yield parse_line(file.readline()) or {}

    def _add(self, entry: ShardEntry, offset: int) -> None:
        self.finished[entry.number], self._offsets[entry.number] = entry, offset
        self._written.append(entry.number)

    def _scan(self, file: BinaryIO) -> int:
        """Find the finished shards; return the offset at which the last of them, or the header, ends."""
        file.seek(0)
        whole_until = n_clips = offset = 0
        for line in file:
            offset += len(line)
            if line.startswith(_CLIP_BEGIN) and line.endswith(b"\n"):
                n_clips += 1
                continue
            record = parse_line(line)
            if record is None:
                break
            if "header" in record and whole_until == 0:
                self.header = record["header"]
            else:
                entry = _entry_of(record)
                if entry is None or entry.clips != n_clips:
                    break
                self._add(entry, whole_until)
            whole_until, n_clips = offset, 0
        return whole_until


class Journal(JournalRecords):
    """The journal of one pack's folder, locked against a second packer while it is open."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        """Open or begin the journal.

        Args:
            folder: The pack's folder, which is made if it does not exist.
            header: Must equal the header of a run that is resumed.

        Raises:
            OutputError: If the folder holds another pack, something else, or is being written by another process.
        """
        super().__init__(folder / JOURNAL_FILE)
        self.folder = folder
        pack_folder(folder).require_usable()
        with ExitStack() as held:
            held.enter_context(pack_folder(folder).locked())
            pack_folder(folder).require_usable()
            self._file = held.enter_context(self.path.open("a+b"))
            whole_until = self._scan(self._file)
            if self.header is not None:
                refuse_difference(folder, self.header, json.loads(json.dumps(header)), self.path)
            self._file.seek(0)
            begin = self._file.read(len(_BEGIN))
            if whole_until == 0 and begin != _BEGIN[: len(begin)]:
                raise OutputError(_not_ours(self.path))
            self._file.truncate(whole_until)  # the lines of a shard that was not finished
            if whole_until == 0:
                self._append([{"header": header}])
            self._held = held.pop_all()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def append(self, entry: ShardEntry, clips: Sequence[Clip], packed: Sequence[PackedClip]) -> None:
        """Add a finished shard and flush it to the disk."""
        offset = self._file.seek(0, os.SEEK_END)
        lines = []
        for clip, result in zip(clips, packed, strict=True):
            optional = {"needs": result.needs, "retry": result.to_retry, **result.notes}
            lines.append(
                {
                    "clip_id": clip.clip_id,
                    "path": clip.path,
                    "source": None if result.source is None else asdict(result.source),
                    "crc32": result.crc32,
                    "reason": result.reason,
                    **{key: value for key, value in optional.items() if value},
                }
            )
        counts = {"clips": entry.clips, "rejected": entry.rejected, **{name: entry.notes[name] for name in _COUNTS}}
        shard = None if entry.shard is None else asdict(entry.shard)
        self._append([*lines, {"shard": entry.number, "of": shard, **counts}])
        self._add(entry, offset)

    def compact(self) -> None:
        """Remove the lines of shards that were packed again, so that the journal is that of an undisturbed run."""
        numbers = sorted(self.finished)
        if self._written == numbers:
            return
        offsets: dict[int, int] = {}
        with self.path.open("rb") as old, atomic.replacing(self.path) as partial, partial.open("wb") as new:
            new.write(old.readline())  # the header
            for number in numbers:
                offsets[number] = new.tell()
                old.seek(self._offsets[number])
                new.writelines(old.readline() for _ in range(self.finished[number].clips + 1))
        self._offsets, self._written = offsets, numbers

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def refuse_difference(folder: Path, found: Any, header: Mapping[str, Any], source: Path) -> None:
    """Raise `OutputError` unless the pack in a folder was begun with the same header; `source` is the file of it."""
    if not isinstance(found, Mapping):
        raise OutputError(_not_ours(source))
    difference = header_difference(found, header)
    if difference:
        raise OutputError(f"{folder} holds a pack with {difference}: choose another --out, or start over with --fresh")


def header_difference(found: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    """Return the first key in which two headers differ, with both values; empty if they are equal."""
    before, now = _flat(found), _flat(header)
    for key in dict.fromkeys([*now, *before]):
        if before.get(key) != now.get(key):
            return f"{key}={_short(before.get(key))}, not {_short(now.get(key))}"
    return ""


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with the values of inner tables under keys such as ``versions.numpy``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def pack_folder(folder: Path) -> WorkFolder:
    """Return the folder of a pack, of which the journal is the first file."""
    return WorkFolder(folder, JOURNAL_FILE, Work("is no pack", noun="a pack"))


def require_journal(path: Path) -> None:
    """Raise `OutputError` if the first line of a file is not that of a journal; a killed run may have left half."""
    with path.open("rb") as file:
        line = file.readline()
    if line.endswith(b"\n"):
        header = (parse_line(line) or {}).get("header")
        is_ours = isinstance(header, dict) and "manifest_sha256" in header
    else:
        is_ours = line.startswith(_BEGIN) or _BEGIN.startswith(line)
    if not is_ours:
        raise OutputError(_not_ours(path))


def _not_ours(path: Path) -> str:
    return f"{path} is no journal of epanns: choose another --out or delete it first"


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return a line of a journal, or None if it is damaged, as after a killed run."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = parse_json(line.decode(), "line", error=DataError)
    except (DataError, UnicodeDecodeError):
        return None
    return record if isinstance(record, dict) else None


def _entry_of(record: Mapping[str, Any]) -> ShardEntry | None:
    """Return the entry of a shard's line; None for any other line."""
    if table_problems(record, _SHARD_LINE, required=_SHARD_LINE):
        return None
    try:
        shard = None if record["of"] is None else from_table(ShardInfo, record["of"], SHARD_RULES)
    except ConfigError:
        return None
    notes = {name: record[name] for name in NOTES}
    return ShardEntry(record["shard"], shard, record["clips"], record["rejected"], notes)


def _is_unchanged(line: Mapping[str, Any], clip: Clip) -> bool:
    """Return whether a line belongs to a clip, and the clip's file is unchanged."""
    if line.get("clip_id") != clip.clip_id or not line.keys() >= {"path", "source", "reason"}:
        return False
    given = line["source"]
    if given is not None and (not isinstance(given, dict) or given.keys() != {"size", "mtime_ns", "sha256"}):
        return False
    return is_unchanged(clip.path, None if given is None else SourceState(**given))


def _is_to_retry(line: Mapping[str, Any]) -> bool:
    """Return whether a line is of a reject that is retried even if its file is unchanged."""
    if not line.get("reason"):
        return False
    return bool(line.get("retry")) or (line.get("needs") in _DECODERS and can_import(line["needs"]))
