"""The check of a whole pack of any format: every file, every rule, every clip."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epanns.data.contained import Crashed, count_of, line_of, run_contained, senseless
from epanns.data.opening import is_panns, open_pack
from epanns.data.pack import Pack
from epanns.data.pack_format import (
    JOURNAL_FILE,
    NOTES_FILE,
    PACK_FILE,
    REJECTS_FILE,
    PackInfo,
    ShardInfo,
    read_pack_info,
)
from epanns.data.pack_lists import problem_of_notes, problem_of_rejects
from epanns.data.panns_format import index_file
from epanns.data.panns_index import open_panns_index
from epanns.data.shard import Shard
from epanns.data.source import ClipColumns, ClipSource, no_clips
from epanns.errors import DataError, EpannsError, PackError
from epanns.feedback import Progress
from epanns.labels import LabelSet
from epanns.workfolder import LOCK_FILES

DEFAULT_MEMORY_LIMIT = 4 << 30  # bytes
MOST_PROBLEMS = 1000  # that are listed; the others are counted
_HASHED_AT_ONCE = 1 << 24  # bytes


@dataclass(frozen=True)
class Verification:
    """What came out.

    Attributes:
        problems: What is wrong, one line each; none says that the pack is whole as far as its format can tell.
        remarks: What the format cannot tell, and what was left out.
        clips: How many were read.
        unlisted: How many problems there are beyond the `MOST_PROBLEMS` that are listed.
        opened: Whether it could be opened as a pack at all; the one problem says why not.
    """

    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    clips: int = 0
    unlisted: int = 0
    opened: bool = True


class _Problems:
    """Lists problems up to a number, counts the others, and passes each on as soon as it is found."""

    def __init__(self, log: Callable[[str], None] | None) -> None:
        self.listed: list[str] = []
        self.unlisted, self._log = 0, log

    def add(self, problems: Iterable[str]) -> None:
        """List or count problems."""
        for problem in problems:
            if len(self.listed) == MOST_PROBLEMS:
                self.unlisted += 1
                continue
            self.listed.append(problem)
            if self._log is not None:
                self._log(problem)


class _Count:
    """Clips passed, reported as they are, and how many of them were read."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.read, self._passed, self._total, self._progress = 0, 0, total, progress

    def add(self, *, passed: int = 1, read: int = 0) -> None:
        """Count clips and report."""
        self.read += read
        self._passed += passed
        if self._progress is not None:
            self._progress(self._passed, self._total)


def verify_pack(
    path: Path,
    *,
    labels: LabelSet | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> Verification:
    """Check a pack in this process.

    Of our own packs are read ``pack.json``, the list of files, the sha256 and the schema of every shard, and the crc32
    and the padding of every clip; a shard that cannot be opened does not keep the others from being checked. Of other
    formats every rule is checked and every clip is read and decoded; they have no checksums, which a remark says.

    Args:
        path: As `open_pack` takes it.
        labels: As `open_pack` takes them.
        progress: Called with (clips checked, clips in all), also while a large file is hashed.
        log: Called with each problem that is listed, as soon as it is found.
    """
    problems = _Problems(log)
    try:
        source = open_pack(path, labels=labels)
    except PackError as error:
        problems.add([str(error)])
        return Verification(tuple(problems.listed), opened=False)
    count = _Count(progress, len(source))
    if isinstance(source, Pack):
        _verify_own(source, problems, count)
    else:
        if path.is_dir() and (path / PACK_FILE).exists():
            _verify_described(path, problems, count)
        problems.add(_problems_of_source(source, count))
    source.close()
    return Verification(tuple(problems.listed), source.remarks, count.read, problems.unlisted)


def verify_contained(
    path: Path,
    *,
    labels: LabelSet | None = None,
    progress: Progress | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
) -> Verification:
    """Do as `verify_pack` in a process of its own, so that a file that crashes HDF5 is a problem like others.

    Args:
        path: As `verify_pack` takes it.
        labels: As `verify_pack` takes them.
        progress: As `verify_pack` takes it; called in this process.
        memory_limit: Bytes of memory that the check may take.
    """
    done = 0

    def note(clips: int, total: int | None) -> None:
        nonlocal done
        done = clips
        if progress is not None:
            progress(clips, total)

    problems: list[str] = []

    def log(problem: str) -> None:
        if len(problems) == MOST_PROBLEMS:
            raise senseless()
        problems.append(problem)

    try:
        answer = run_contained(_verified, path, labels, memory_limit=memory_limit, progress=note, log=log)
        return _verification_of(answer, problems)
    except Crashed as crash:
        advice = "a file is damaged or made to do harm: fetch the pack again, or raise --memory-limit if you trust it"
        problems.append(f"{path}: the check {crash} after {done} clips; {advice}")
        return Verification(tuple(problems), (), done)


def _verified(path: Path, labels: LabelSet | None, progress: Progress, log: Callable[[str], None]) -> list[object]:
    """Run in the process of its own; the problems are told as they are found."""
    try:
        found = verify_pack(path, labels=labels, progress=progress, log=log)
    except EpannsError as error:
        log(str(error))
        return [[], 0, 0, False]
    return [found.remarks, found.clips, found.unlisted, found.opened]


def _verification_of(answer: object, problems: Sequence[str]) -> Verification:
    """Return the answer of `_verified`; raise `Crashed` unless it looks like one."""
    if not isinstance(answer, list) or len(answer) != 4 or not isinstance(answer[0], list):  # noqa: PLR2004
        raise senseless()
    remarks, clips, unlisted, opened = answer
    if not isinstance(opened, bool) or len(remarks) > MOST_PROBLEMS:
        raise senseless()
    lines = tuple(line_of(remark) for remark in remarks)
    return Verification(tuple(problems), lines, count_of(clips), count_of(unlisted), opened)


def _verify_own(pack: Pack, problems: _Problems, count: _Count) -> None:
    problems.add(_problems_of_files(pack.path, pack.info))
    problems.add(_problems_of_lists(pack.path, pack.info))
    if not pack.shards:
        problems.add([str(no_clips(pack.path))])
    clip_ids: dict[bytes, str] = {}
    for shard, info in zip(pack.shards, pack.info.shards, strict=True):
        problems.add(_problems_of_sha256(pack.path, info, count))
        try:
            columns = shard.read_columns()
        except PackError as error:
            problems.add([str(error)])
            count.add(passed=info.clips)
        else:
            problems.add(_problems_of_ids(shard, columns, clip_ids))
            problems.add(_problems_of_clips(shard, columns, count))


def _verify_described(path: Path, problems: _Problems, count: _Count) -> None:
    """Check what pack.json says of a pack in PANNs' format, and its index."""
    info = read_pack_info(path)
    problems.add(_problems_of_files(path, info))
    problems.add(_problems_of_lists(path, info))
    for shard in info.shards:
        problems.add(_problems_of_sha256(path, shard, count))
    index = path / index_file(info.settings.splits)
    try:
        rows = len(open_panns_index(index).row_of)
    except PackError as error:
        problems.add([str(error)])
        return
    if rows != info.counts.clips:
        problems.add([f"{index}: has {rows} rows, the pack {info.counts.clips}; pack again"])


def _problems_of_sha256(path: Path, shard: ShardInfo, count: _Count) -> Iterator[str]:
    file = path / shard.file
    if file.is_file() and _sha256_of(file, count) != shard.sha256:
        yield f"{file}: its sha256 is not the one in {PACK_FILE}: the file has changed"


def _sha256_of(file: Path, count: _Count) -> str:
    """Return a file's sha256 and report progress meanwhile: large files on slow disks take minutes."""
    content = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_HASHED_AT_ONCE):
            content.update(block)
            count.add(passed=0)
    return content.hexdigest()


def _problems_of_files(path: Path, info: PackInfo) -> Iterator[str]:
    needed = {PACK_FILE, JOURNAL_FILE, REJECTS_FILE}
    if info.counts.cut is not None:
        needed.add(NOTES_FILE)
    if is_panns(info):
        needed.add(index_file(info.settings.splits))
    known = needed | {shard.file for shard in info.shards} | LOCK_FILES
    present = {str(Path(root, name).relative_to(path)) for root, _, names in os.walk(path) for name in names}
    for name in sorted(present - known):
        yield f"{path / name}: is no part of the pack; remove it"
    for name in sorted(needed - present):
        yield f"{path / name}: is missing; copy the pack again or pack again"


def _problems_of_lists(path: Path, info: PackInfo) -> Iterator[str]:
    for name, problem_of in ((REJECTS_FILE, problem_of_rejects), (NOTES_FILE, problem_of_notes)):
        if not (path / name).is_file():
            continue  # where it is needed, it is missed above
        try:
            problem = problem_of(path, info.counts)
        except DataError as error:
            problem = str(error)
        if problem is not None:
            yield f"{problem}; copy the pack again"


def _problems_of_ids(shard: Shard, columns: ClipColumns, seen: dict[bytes, str]) -> Iterator[str]:
    for clip_id in columns.clip_ids.tolist():
        if clip_id in seen:
            yield f"{shard.path}: clip {clip_id.decode()!r} is in {seen[clip_id]} too; pack again"
        seen[clip_id] = shard.path.name


def _problems_of_clips(shard: Shard, columns: ClipColumns, count: _Count) -> Iterator[str]:
    assert columns.crc32 is not None  # noqa: S101 - our own shards always have them
    waveform = np.empty(shard.shape.clip_samples, np.int16)
    for row, clip_id in enumerate(map(bytes.decode, columns.clip_ids.tolist())):
        try:
            shard.read_into(row, int(columns.crc32[row]), waveform)
        except PackError as error:
            yield f"clip {clip_id!r}: {error}"
        else:
            if waveform[columns.n_samples[row] :].any():
                yield f"clip {clip_id!r}: {shard.path}: row {row} has sound after its {columns.n_samples[row]} samples"
        count.add(read=1)


def _problems_of_source(source: ClipSource, count: _Count) -> Iterator[str]:
    waveform = np.empty(source.clip_samples, np.int16)
    for index in range(len(source)):
        try:
            source.read_into(index, waveform)
        except PackError as error:
            yield str(error)
        count.add(read=1)
