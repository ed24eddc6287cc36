"""The packer's journal: what is finished, so that a stopped run goes on where it was.

``journal.jsonl`` is appended to, one shard at a time. Its first line says what is packed and how; a shard is one line
per clip, then one for the shard itself. A shard counts only with its own line: what a killed run left behind it is cut.
Of the lines of clips only the place is kept in memory, so that a pack may have millions.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from epanns.data.clip import Clip
from epanns.data.conversion import PackedClip
from epanns.data.origin import Source, is_readable, is_unchanged
from epanns.data.pack_format import JOURNAL_FILE, ShardInfo, complete_settings
from epanns.errors import OutputError
from epanns.optional import is_installed
from epanns.workfolder import Work, WorkFolder

_BEGIN = b'{"header": '
_CLIP_BEGIN = b'{"clip_id": '
_COUNTS = ("clips", "rejected", "clipped", "silent")


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
    """

    number: int
    shard: ShardInfo | None
    clips: int
    rejected: int
    clipped: int
    silent: int
    short: int | None


class Journal:
    """The journal of one pack's folder, locked against a second packer while it is open.

    Attributes:
        finished: Shards that were in place when they were written, by number.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        """Open or begin the journal.

        Args:
            folder: The pack's folder, made where it does not exist.
            header: What must be equal for the run to be continued.

        Raises:
            OutputError: If the folder holds another pack, something else, or is being written by another process.
        """
        self.folder = folder
        self._path = folder / JOURNAL_FILE
        pack_folder(folder).require_claimable()
        self._places: dict[int, int] = {}  # where the lines of a finished shard's clips begin
        self.finished: dict[int, ShardEntry] = {}
        with ExitStack() as held:
            held.enter_context(pack_folder(folder).locked())
            pack_folder(folder).require_claimable()
            self._file = held.enter_context(self._path.open("a+b"))
            self._read(json.loads(json.dumps(header)))
            self._held = held.pop_all()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def append(self, entry: ShardEntry, clips: Sequence[Clip], packed: Sequence[PackedClip]) -> None:
        """Add a finished shard and flush it to the disk."""
        place = self._file.seek(0, os.SEEK_END)
        lines = [_clip_line(clip, result) for clip, result in zip(clips, packed, strict=True)]
        values = asdict(entry)
        self._append([*lines, {"shard": values.pop("number"), "of": values.pop("shard"), **values}])
        self.finished[entry.number], self._places[entry.number] = entry, place

    def is_current(self, number: int, clips: Sequence[Clip]) -> bool:
        """Whether a shard is finished, and every file that it was made from is as it was."""
        entry = self.finished.get(number)
        if entry is None or entry.clips != len(clips):
            return False
        lines = self._lines_of(entry)
        return all(_is_current(line, clip) for line, clip in zip(lines, clips, strict=True))

    def lost_source(self, number: int, clips: Sequence[Clip]) -> str | None:
        """Return the first audio file of a part that was packed from it and can no longer be read."""
        entry = self.finished.get(number)
        lines = self._lines_of(entry) if entry is not None and entry.clips == len(clips) else ({} for _ in clips)
        for line, clip in zip(lines, clips, strict=True):
            if not line.get("reason") and not is_readable(clip.path):
                return clip.path
        return None

    def keep_only(self, numbers: Collection[int]) -> None:
        """Leave other parts out of `finished`; what is on the disk of them stays."""
        self.finished = {number: entry for number, entry in self.finished.items() if number in numbers}

    def rejects(self) -> Iterator[tuple[str, str, str]]:
        """Yield clip id, path and reason of each reject, in the manifest's order."""
        for _, entry in sorted(self.finished.items()):
            if entry.rejected:
                yield from (
                    (line["clip_id"], line["path"], line["reason"]) for line in self._lines_of(entry) if line["reason"]
                )

    def _lines_of(self, entry: ShardEntry) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            file.seek(self._places[entry.number])
            for _ in range(entry.clips):
                yield parse(file.readline()) or {}

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, header: dict[str, Any]) -> None:
        """Find the finished shards and cut whatever follows the last of them."""
        self._file.seek(0)
        whole_until = n_clips = place = 0
        for line in self._file:
            place += len(line)
            if line.startswith(_CLIP_BEGIN) and line.endswith(b"\n"):
                n_clips += 1
                continue
            record = parse(line)
            if record is None:
                break
            if "header" in record:
                refuse_difference(self.folder, _header_of(record, self._path), header)
            else:
                entry = _entry_of(record)
                if entry is None or entry.clips != n_clips:
                    break
                self.finished[entry.number], self._places[entry.number] = entry, whole_until
            whole_until, n_clips = place, 0
        self._cut_after(whole_until)
        if whole_until == 0:
            self._append([{"header": header}])

    def _cut_after(self, whole_until: int) -> None:
        """Remove the lines of a shard that was not finished, but never a file that is not ours."""
        self._file.seek(0)
        begin = self._file.read(len(_BEGIN))
        if whole_until == 0 and begin != _BEGIN[: len(begin)]:
            raise OutputError(not_ours(self._path))
        self._file.truncate(whole_until)


def pack_folder(folder: Path) -> WorkFolder:
    """Return the folder of a pack as the place of its work; the journal is the first file."""
    return WorkFolder(folder, JOURNAL_FILE, Work("is no pack", noun="a pack"), earlier_locks=[JOURNAL_FILE])


def is_header(line: bytes) -> bool:
    """Whether a journal's first line is ours; a killed run may have left half of it, or none."""
    if not line.endswith(b"\n"):
        return line.startswith(_BEGIN) or _BEGIN.startswith(line)
    header = (parse(line) or {}).get("header")
    return isinstance(header, dict) and "manifest_sha256" in header


def not_ours(path: Path) -> str:
    """Return the message for a journal that some other program wrote."""
    return f"{path} is no journal of epanns: choose another --out or delete it first"


def refuse_difference(folder: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise unless the pack at `folder` was begun with what is wanted now."""
    there, asked = _flat(held), _flat(wanted)
    for key in dict.fromkeys([*asked, *(key for key in there if key.partition(".")[0] in wanted)]):
        if there.get(key) != asked.get(key):
            raise OutputError(
                f"{folder} holds a pack with {key}={_short(there.get(key))}, asked for is {_short(asked.get(key))}: "
                "choose another --out, or start over with --fresh"
            )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those of nested mappings under keys such as ``versions.numpy``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse(line: bytes) -> dict[str, Any] | None:
    """Return a journal line, or None where a killed run left half of one."""
    if not line.endswith(b"\n"):
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
        **({"needs": packed.needs} if packed.needs else {}),
    }


def _header_of(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    try:
        return complete_settings(record["header"])
    except (KeyError, TypeError) as error:
        raise OutputError(not_ours(path)) from error


def _entry_of(record: Mapping[str, Any]) -> ShardEntry | None:
    try:
        shard = None if record["of"] is None else ShardInfo(**record["of"])
        counts = {name: int(record[name]) for name in _COUNTS}
        return ShardEntry(number=record["shard"], shard=shard, short=record.get("short"), **counts)
    except (KeyError, TypeError, ValueError):
        return None


def _is_current(line: Mapping[str, Any], clip: Clip) -> bool:
    if line.get("clip_id") != clip.clip_id or not line.keys() >= {"path", "source", "reason"}:
        return False
    if line.get("needs") and is_installed(line["needs"]):
        return False  # it was, since
    return is_unchanged(clip.path, None if line["source"] is None else Source(**line["source"]))
