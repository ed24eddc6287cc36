"""The packer's journal: what is finished, so that a stopped run goes on where it was.

``journal.jsonl`` is appended to, one shard at a time. Its first line says what is packed and how; a shard is one line
per clip, then one for the shard itself. A shard counts only with its own line: what a killed run left behind it is cut.
The lines are in `epanns.data.journal_records`.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from epanns import atomic
from epanns.data.clip import Clip
from epanns.data.conversion import PackedClip
from epanns.data.journal_records import JournalRecords, ShardEntry, clip_line, parse
from epanns.data.pack_format import JOURNAL_FILE, complete_settings
from epanns.errors import OutputError
from epanns.workfolder import Work, WorkFolder

_BEGIN = b'{"header": '


class Journal(JournalRecords):
    """The journal of one pack's folder, locked against a second packer while it is open."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        """Open or begin the journal.

        Args:
            folder: The pack's folder, made where it does not exist.
            header: What must be equal for the run to be continued.

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
        lines = [clip_line(clip, result) for clip, result in zip(clips, packed, strict=True)]
        values = asdict(entry)
        self._append([*lines, {"shard": values.pop("number"), "of": values.pop("shard"), **values}])
        self._note(entry, place)

    def compact(self) -> None:
        """Remove the lines of shards that were packed again, so that the journal is that of an undisturbed run."""
        numbers = sorted(self.finished)
        if self._written == numbers:
            return
        places: dict[int, int] = {}
        with self.path.open("rb") as old, atomic.replacing(self.path) as partial, partial.open("wb") as new:
            new.write(old.readline())  # the header
            for number in numbers:
                places[number] = new.tell()
                old.seek(self._places[number])
                new.writelines(old.readline() for _ in range(self.finished[number].clips + 1))
        self._places, self._written = places, numbers

    def keep_only(self, numbers: Collection[int]) -> None:
        """Leave other parts out of `finished`; what is on the disk of them stays."""
        self.finished = {number: entry for number, entry in self.finished.items() if number in numbers}

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, header: dict[str, Any]) -> None:
        """Find the finished shards and cut whatever follows the last of them."""
        whole_until = self._scan(self._file)
        if self.header is not None:
            refuse_difference(self.folder, _complete(self.header, self.path), header)
        self._cut_after(whole_until)
        if whole_until == 0:
            self._append([{"header": header}])

    def _cut_after(self, whole_until: int) -> None:
        """Remove the lines of a shard that was not finished, but never a file that is not ours."""
        self._file.seek(0)
        begin = self._file.read(len(_BEGIN))
        if whole_until == 0 and begin != _BEGIN[: len(begin)]:
            raise OutputError(not_ours(self.path))
        self._file.truncate(whole_until)


def pack_folder(folder: Path) -> WorkFolder:
    """Return the folder of a pack as the place of its work; the journal is the first file."""
    return WorkFolder(folder, JOURNAL_FILE, Work("is no pack", noun="a pack"))


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
    difference = pack_difference(held, wanted)
    if difference:
        raise OutputError(f"{folder} holds a pack with {difference}: choose another --out, or start over with --fresh")


def pack_difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the first key in which a pack differs from the asked one, with both values; empty where none does."""
    there, asked = _flat(held), _flat(wanted)
    for key in dict.fromkeys([*asked, *(key for key in there if key.partition(".")[0] in wanted)]):
        if there.get(key) != asked.get(key):
            return f"{key}={_short(there.get(key))}, asked for is {_short(asked.get(key))}"
    return ""


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those of nested mappings under keys such as ``versions.numpy``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _complete(header: Any, path: Path) -> dict[str, Any]:
    try:
        return complete_settings(header)
    except (KeyError, TypeError) as error:
        raise OutputError(not_ours(path)) from error
