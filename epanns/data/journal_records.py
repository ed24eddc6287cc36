"""The lines of a packer's journal, and the rejects that are retried; writing is in `epanns.data.journal`.

A clip is a line, and a finished shard is one more after those of its clips. Of the lines of clips only the place is
kept in memory, so that a pack may have millions.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from epanns.data.clip import Clip
from epanns.data.conversion import PackedClip
from epanns.data.origin import Source, is_readable, is_unchanged
from epanns.data.pack_format import NOTES, SHARD_FILES, ShardInfo
from epanns.packages import can_import

_CLIP_BEGIN = b'{"clip_id": '
_COUNTS = ("clips", "rejected", "clipped", "silent")
_LATER_COUNTS = tuple(name for name in NOTES if name not in _COUNTS)
# Rejects of journals that did not mark them: want of memory was one, and a process that died was the clip's fault.
_EARLIER_TO_RETRY = re.compile(r"\(\w*MemoryError:|: crashes the decoder \(")
_DECODERS = ("av",)  # packages that decode, and that a later installation may add


@dataclass(frozen=True)
class ShardEntry:
    """A finished part of the manifest.

    Attributes:
        number: Which part, from 0.
        shard: Its file; None where every clip of the part was rejected.
        clips: Clips of the part, rejected ones included.
        rejected: Those that are not in the shard.
        clipped: Rows with limited samples.
        silent: Rows of zeros.
        short: Rows that are padded; None in journals written before they were counted.
        cut: Rows whose clip is longer; None, like the counts below, in journals written before they were counted, whose
            lines do not name the clips of any of these counts.
        beyond_header: Rows with sound beyond the length that the header states.
        unstated_length: Rows of files that do not state their length.
    """

    number: int
    shard: ShardInfo | None
    clips: int
    rejected: int
    clipped: int
    silent: int
    short: int | None
    cut: int | None = None
    beyond_header: int | None = None
    unstated_length: int | None = None


class JournalRecords:
    """The finished shards of a journal, as they were when it was read.

    Attributes:
        path: The journal.
        header: What is packed and how; None where the journal has no header.
        finished: Shards that were in place when they were written, by number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Any = None
        self.finished: dict[int, ShardEntry] = {}
        self._places: dict[int, int] = {}  # where the lines of a finished shard's clips begin
        self._written: list[int] = []  # numbers of all shards that have lines, in the order of the lines

    @classmethod
    def read(cls, path: Path) -> "JournalRecords":
        """Read a journal that another process may be writing; nothing is locked or changed.

        Raises:
            OSError: If it cannot be read.
        """
        records = cls(path)
        with path.open("rb") as file:
            records._scan(file)
        return records

    def is_current(self, number: int, clips: Sequence[Clip]) -> bool:
        """Return whether a shard is finished, its files are as they were, and no reject is due for a retry."""
        entry = self.finished.get(number)
        if entry is None or entry.clips != len(clips):
            return False
        return all(
            _is_unchanged(line, clip) and not _is_to_retry(line)
            for line, clip in zip(self._lines_of(entry), clips, strict=True)
        )

    def n_to_retry(self, number: int, clips: Sequence[Clip]) -> int:
        """Return how many rejects of a finished shard are due for a retry.

        A reject is retried where its file changed, its decoder was installed since, or the reason may lie elsewhere.
        """
        entry = self.finished.get(number)
        if entry is None or not entry.rejected or entry.clips != len(clips):
            return 0
        return sum(
            bool(line.get("reason")) and (_is_to_retry(line) or not _is_unchanged(line, clip))
            for line, clip in zip(self._lines_of(entry), clips, strict=True)
        )

    def lost_source(self, number: int, clips: Sequence[Clip]) -> str | None:
        """Return the first audio file of a part that was packed from it and can no longer be read."""
        entry = self.finished.get(number)
        lines = self._lines_of(entry) if entry is not None and entry.clips == len(clips) else ({} for _ in clips)
        for line, clip in zip(lines, clips, strict=True):
            if not line.get("reason") and not is_readable(clip.path):
                return clip.path
        return None

    def packed(self, entry: ShardEntry) -> list[bool]:
        """Return of each clip of a shard that was read or written whether it has a row."""
        return [not line.get("reason") for line in self._lines_of(entry)]

    def rejects(self) -> Iterator[tuple[str, str, str]]:
        """Yield clip id, path and reason of each reject, in the manifest's order."""
        for _, entry in sorted(self.finished.items()):
            if entry.rejected:
                for line in self._lines_of(entry):
                    if line.get("reason"):
                        yield _text(line, "clip_id"), _text(line, "path"), _text(line, "reason")

    def notes(self) -> Iterator[tuple[str, str, dict[str, int]]]:
        """Yield each row that differs from its clip, in the manifest's order: clip id, path, and its `NOTES`."""
        for _, entry in sorted(self.finished.items()):
            if any(getattr(entry, name) for name in NOTES):
                for line in self._lines_of(entry):
                    notes = {name: line[name] for name in NOTES if line.get(name) and _is_count(line[name])}
                    if notes:
                        yield _text(line, "clip_id"), _text(line, "path"), notes

    def _note(self, entry: ShardEntry, place: int) -> None:
        self.finished[entry.number], self._places[entry.number] = entry, place
        self._written.append(entry.number)

    def _lines_of(self, entry: ShardEntry) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            file.seek(self._places[entry.number])
            for _ in range(entry.clips):
                yield parse(file.readline()) or {}

    def _scan(self, file: BinaryIO) -> int:
        """Find the finished shards; return the place at which the last of them ends, or the header."""
        file.seek(0)
        whole_until = n_clips = place = 0
        for line in file:
            place += len(line)
            if line.startswith(_CLIP_BEGIN) and line.endswith(b"\n"):
                n_clips += 1
                continue
            record = parse(line)
            if record is None:
                break
            if "header" in record and whole_until == 0:
                self.header = record["header"]
            else:
                entry = _entry_of(record)
                if entry is None or entry.clips != n_clips:
                    break
                self._note(entry, whole_until)
            whole_until, n_clips = place, 0
        return whole_until


def parse(line: bytes) -> dict[str, Any] | None:
    """Return a journal line, or None where a killed run left half of one."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def clip_line(clip: Clip, packed: PackedClip) -> dict[str, Any]:
    """Return the line of a clip; a later key is left out where its value is empty or 0."""
    later = {"needs": packed.needs, "retry": packed.to_retry, **packed.notes}
    return {
        "clip_id": clip.clip_id,
        "path": clip.path,
        "source": None if packed.source is None else asdict(packed.source),
        "crc32": packed.crc32,
        "reason": packed.reason,
        **{key: value for key, value in later.items() if value},
    }


def _entry_of(record: Mapping[str, Any]) -> ShardEntry | None:
    """Return the entry of a shard's line; None for any other line."""
    counts: dict[str, Any] = {name: record.get(name) for name in _COUNTS}
    later: dict[str, Any] = {name: record[name] for name in _LATER_COUNTS if record.get(name) is not None}
    given: Any = record.get("of")
    number: Any = record.get("shard")
    if not all(map(_is_count, (number, *counts.values(), *later.values()))):
        return None
    if given is not None and not (isinstance(given, dict) and given.keys() == {"file", "clips", "sha256"}):
        return None
    shard = None if given is None else ShardInfo(**given)
    if shard and not (_is_count(shard.clips) and isinstance(shard.sha256, str) and _is_name_of_shard(shard.file)):
        return None
    return ShardEntry(number, shard, **{"short": None, **counts, **later})


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_name_of_shard(file: object) -> bool:
    return isinstance(file, str) and any(pattern.fullmatch(file) for pattern in SHARD_FILES.values())


def _text(line: Mapping[str, Any], key: str) -> str:
    return str(line.get(key, ""))


def _is_unchanged(line: Mapping[str, Any], clip: Clip) -> bool:
    """Return whether a line is of this clip, and the clip's file is as it was."""
    if line.get("clip_id") != clip.clip_id or not line.keys() >= {"path", "source", "reason"}:
        return False
    given = line["source"]
    if given is not None and (not isinstance(given, dict) or given.keys() != {"size", "mtime_ns", "sha256"}):
        return False
    return is_unchanged(clip.path, None if given is None else Source(**given))


def _is_to_retry(line: Mapping[str, Any]) -> bool:
    """Return whether a line is of a reject that is retried though its file is as it was."""
    if not line.get("reason"):
        return False
    if line.get("needs") in _DECODERS and can_import(line["needs"]):
        return True
    return bool(line.get("retry") or _EARLIER_TO_RETRY.search(str(line["reason"])))
