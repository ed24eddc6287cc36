"""The check of a whole pack of any format: every file, every rule, every clip."""

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from epanns.data.packing.decoding_pool import describe_exit
from epanns.data.packs.any_pack import ClipColumns, no_clips
from epanns.data.packs.pack import Pack, open_pack
from epanns.data.packs.pack_format import (
    JOURNAL_FILE,
    NOTES_FILE,
    PACK_FILE,
    REJECTS_FILE,
    PackInfo,
    ShardInfo,
    problem_of_list,
    read_pack_info,
)
from epanns.data.packs.panns_file import index_file
from epanns.data.packs.panns_pack import open_panns_index
from epanns.data.packs.shard import Shard
from epanns.errors import EpannsError, PackError
from epanns.feedback import Progress
from epanns.labels import LabelSet
from epanns.workfolder import LOCK_FILES

DEFAULT_MEMORY_LIMIT = 4 << 30  # bytes
MOST_PROBLEMS = 1000  # that are listed; further ones are counted
PATIENCE = 300.0  # seconds without a message of the child; opening two million rows on a slow disk takes less
_HASHED_AT_ONCE = 1 << 24  # bytes
_SECONDS_BETWEEN_REPORTS = 0.1


@dataclass(frozen=True)
class Verification:
    """The result of a check.

    Attributes:
        problems: One line for each problem; empty for a pack that is whole as far as its format can show.
        remarks: What the format cannot show, and rows that are left out.
        clips: Number of clips that were read.
        unlisted: Number of problems beyond the `MOST_PROBLEMS` that are listed.
        opened: Whether the pack could be opened; otherwise the only problem is the reason.
    """

    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    clips: int = 0
    unlisted: int = 0
    opened: bool = True


class _Report:
    """Lists problems up to a number, counts further ones, counts clips, and reports progress."""

    def __init__(self, progress: Progress | None, log: Callable[[str], None] | None) -> None:
        self.listed: list[str] = []
        self.unlisted = self.read = self.checked = self.total = 0
        self._progress, self._log = progress, log

    def add(self, problems: Iterable[str]) -> None:
        """List or count problems, and log each that is listed."""
        for problem in problems:
            if len(self.listed) == MOST_PROBLEMS:
                self.unlisted += 1
                continue
            self.listed.append(problem)
            if self._log is not None:
                self._log(problem)

    def count(self, *, checked: int = 1, read: int = 0) -> None:
        """Count clips that were checked and clips that were read, and report the progress."""
        self.read += read
        self.checked += checked
        if self._progress is not None:
            self._progress(self.checked, self.total)


def verify_pack(
    path: Path,
    *,
    labels: LabelSet | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> Verification:
    """Check a pack in this process.

    Of a pack of epanns, it checks ``pack.json``, the list of files, the sha256 and the schema of every shard, and the
    crc32 and the padding of every clip; after a shard that cannot be opened, the next ones are still checked. Of other
    formats, it checks every rule and reads and decodes every clip; a remark states that they have no checksums.

    Args:
        path: As in `open_pack`.
        labels: As in `open_pack`.
        progress: Called with (clips checked, clips in all), also while a large file is hashed.
        log: Called with each listed problem as soon as it is found.
    """
    report = _Report(progress, log)
    try:
        source = open_pack(path, labels=labels)
    except PackError as error:
        report.add([str(error)])
        return Verification(tuple(report.listed), opened=False)
    report.total = len(source)
    if isinstance(source, Pack):
        _verify_own(source, report)
    else:
        if path.is_dir() and (path / PACK_FILE).exists():
            _verify_files_of_panns(path, report)
        waveform = np.empty(source.clip_samples, np.int16)
        for index in range(len(source)):
            try:
                source.read_into(index, waveform)
            except PackError as error:
                report.add([str(error)])
            report.count(read=1)
    source.close()
    return Verification(tuple(report.listed), source.remarks, report.read, report.unlisted)


def verify_contained(
    path: Path,
    *,
    labels: LabelSet | None = None,
    progress: Progress | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
) -> Verification:
    """Check a pack as `verify_pack` in a child process, so that a file that crashes HDF5 is a problem like others.

    Args:
        path: As in `verify_pack`.
        labels: As in `verify_pack`.
        progress: As in `verify_pack`; called in this process.
        memory_limit: Bytes of memory that the check may take.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_verify_in_child, args=(theirs, path, labels, memory_limit), daemon=True)
    child.start()
    theirs.close()
    done, problems = 0, list[str]()
    try:
        while ours.poll(PATIENCE):
            message = json.loads(ours.recv_bytes())  # never a pickle, which could run code of a hostile file here
            if "result" in message:
                remarks, clips, unlisted, opened = message["result"]
                return Verification(tuple(problems), tuple(remarks), clips, unlisted, opened)
            if "failure" in message:
                how_it_ended = message["failure"]
                break
            if "problem" in message:
                problems.append(message["problem"])
            else:
                done = message["done"]
                if progress is not None:
                    progress(done, message["total"])
        else:
            how_it_ended = f"was ended after {PATIENCE:g} s without progress"
    except EOFError:
        child.join()
        how_it_ended = describe_exit(child.exitcode)
    finally:
        child.kill()
        child.join()
        ours.close()
    advice = "a file is damaged or made to do harm: fetch the pack again, or raise --memory-limit if you trust it"
    problems.append(f"{path}: the check {how_it_ended} after {done} clips; {advice}")
    return Verification(tuple(problems), (), done)


def _verify_in_child(connection: Connection, path: Path, labels: LabelSet | None, memory_limit: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the parent ends this one
    reported = 0.0

    def send(**message: object) -> None:
        connection.send_bytes(json.dumps(message).encode())

    def report(done: int, total: int | None) -> None:
        nonlocal reported
        now = time.monotonic()
        if done == total or now - reported >= _SECONDS_BETWEEN_REPORTS:
            reported = now
            send(done=done, total=total)

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])  # that the modules of this process take now
        limit, hard = pages * os.sysconf("SC_PAGE_SIZE") + memory_limit, resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
        found = verify_pack(path, labels=labels, progress=report, log=lambda problem: send(problem=problem))
        send(result=[found.remarks, found.clips, found.unlisted, found.opened])
    except EpannsError as error:
        send(problem=str(error))
        send(result=[[], 0, 0, False])
    except MemoryError:
        send(failure=f"needs more than {memory_limit / 2**30:.3g} GiB of memory")
    except Exception as error:
        send(failure=f"failed with {type(error).__name__}: {error}")


def _verify_own(pack: Pack, report: _Report) -> None:
    report.add(_problems_of_files(pack.path, pack.info))
    if not pack.shards:
        report.add([str(no_clips(pack.path))])
    shard_of: dict[bytes, str] = {}
    for shard, info in zip(pack.shards, pack.info.shards, strict=True):
        report.add(_problems_of_sha256(pack.path, info, report))
        try:
            columns = shard.read_columns()
        except PackError as error:
            report.add([str(error)])
            report.count(checked=info.clips)
            continue
        for clip_id in columns.clip_ids.tolist():
            if clip_id in shard_of:
                report.add([f"{shard.path}: clip {clip_id.decode()!r} is in {shard_of[clip_id]} too; pack again"])
            shard_of[clip_id] = shard.path.name
        report.add(_problems_of_clips(shard, columns, report))


def _verify_files_of_panns(path: Path, report: _Report) -> None:
    """Check pack.json, the sha256 of the waveform files, and the index of a pack in PANNs' format."""
    info = read_pack_info(path)
    report.add(_problems_of_files(path, info))
    for shard in info.shards:
        report.add(_problems_of_sha256(path, shard, report))
    index = path / index_file(info.settings.splits)
    try:
        rows = len(open_panns_index(index).row_of)
    except PackError as error:
        report.add([str(error)])
        return
    if rows != info.counts.clips:
        report.add([f"{index}: has {rows} rows, the pack {info.counts.clips}; pack again"])


def _problems_of_sha256(path: Path, shard: ShardInfo, report: _Report) -> Iterator[str]:
    file = path / shard.file
    if not file.is_file():
        return
    content = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_HASHED_AT_ONCE):
            content.update(block)
            report.count(checked=0)  # large files on slow disks take minutes
    if content.hexdigest() != shard.sha256:
        yield f"{file}: its sha256 is not the one in {PACK_FILE}: the file has changed"


def _problems_of_files(path: Path, info: PackInfo) -> Iterator[str]:
    needed = {PACK_FILE, JOURNAL_FILE, REJECTS_FILE, NOTES_FILE}
    if info.settings.format == "panns":
        needed.add(index_file(info.settings.splits))
    known = needed | {shard.file for shard in info.shards} | LOCK_FILES
    present = {str(Path(root, name).relative_to(path)) for root, _, names in os.walk(path) for name in names}
    for name in sorted(present - known):
        yield f"{path / name}: is no part of the pack; remove it"
    for name in sorted(needed - present):
        yield f"{path / name}: is missing; copy the pack again or pack again"
    for name in (REJECTS_FILE, NOTES_FILE):
        if name in present and (problem := problem_of_list(path, name, info.counts)):
            yield f"{problem}; copy the pack again"


def _problems_of_clips(shard: Shard, columns: ClipColumns, report: _Report) -> Iterator[str]:
    assert columns.crc32 is not None  # noqa: S101 - shards of epanns always have them
    waveform = np.empty(shard.shape.clip_samples, np.int16)
    for row, clip_id in enumerate(map(bytes.decode, columns.clip_ids.tolist())):
        try:
            shard.read_into(row, int(columns.crc32[row]), waveform)
        except PackError as error:
            yield f"clip {clip_id!r}: {error}"
        else:
            if waveform[columns.n_samples[row] :].any():
                yield f"clip {clip_id!r}: {shard.path}: row {row} has sound after its {columns.n_samples[row]} samples"
        report.count(read=1)
