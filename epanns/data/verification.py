"""The check of a whole pack: every file, every rule, every clip."""

import csv
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from epanns import atomic
from epanns.data.pack import Pack
from epanns.data.pack_format import JOURNAL_FILE, PACK_FILE, REJECTS_FILE, PackInfo
from epanns.data.shard import Shard
from epanns.data.source import ClipColumns
from epanns.errors import PackError
from epanns.progress import Progress


def verify_pack(path: Path, *, progress: Progress | None = None) -> list[str]:
    """Return everything that is wrong with a pack, one line each; an empty list says that it is whole.

    Read are ``pack.json``, the list of files, the sha256 and the schema of every shard, and the crc32 and the padding
    of every clip. A shard that cannot be opened does not keep the others from being checked.

    Args:
        path: The pack's folder.
        progress: Called with (clips checked, clips in all).
    """
    try:
        pack = Pack(path)
    except PackError as error:
        return [str(error)]
    problems = [*_problems_of_files(path, pack.info), *_problems_of_rejects(path, pack.info)]
    clip_ids: dict[str, str] = {}
    n_before = 0
    for shard, info in zip(pack.shards, pack.info.shards, strict=True):
        if shard.path.is_file() and atomic.sha256_of(shard.path) != info.sha256:
            problems.append(f"{shard.path}: its sha256 is not the one in {PACK_FILE}: the file has changed")
        try:
            columns = shard.read_columns()
        except PackError as error:
            problems.append(str(error))
        else:
            problems += _problems_of_ids(shard, columns, clip_ids)
            problems += _problems_of_clips(shard, columns, functools.partial(_report, progress, n_before, len(pack)))
        n_before += info.clips
    pack.close()
    return problems


def _report(progress: Progress | None, n_before: int, total: int, row: int) -> None:
    if progress is not None:
        progress(n_before + row, total)


def _problems_of_files(path: Path, info: PackInfo) -> Iterator[str]:
    known = {PACK_FILE, JOURNAL_FILE, REJECTS_FILE, *(shard.file for shard in info.shards)}
    present = {file.name for file in path.iterdir()}
    for name in sorted(present - known):
        yield f"{path / name}: is no part of the pack; remove it"
    for name in sorted({JOURNAL_FILE, REJECTS_FILE} - present):
        yield f"{path / name}: is missing; copy the pack again or pack again"


def _problems_of_rejects(path: Path, info: PackInfo) -> Iterator[str]:
    file = path / REJECTS_FILE
    if not file.is_file():
        return
    try:
        with file.open(encoding="utf-8", newline="") as text:
            n_rows = sum(1 for _ in csv.reader(text)) - 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield f"{file}: cannot be read as CSV ({error}); copy the pack again"
        return
    if n_rows != info.counts.rejected:
        yield f"{file}: lists {n_rows} clips, {PACK_FILE} counts {info.counts.rejected} rejected; copy the pack again"


def _problems_of_ids(shard: Shard, columns: ClipColumns, seen: dict[str, str]) -> Iterator[str]:
    for clip_id in map(bytes.decode, columns.clip_ids.tolist()):
        if clip_id in seen:
            yield f"{shard.path}: clip {clip_id!r} is in {seen[clip_id]} too; pack again"
        seen[clip_id] = shard.path.name


def _problems_of_clips(shard: Shard, columns: ClipColumns, report: Callable[[int], None]) -> Iterator[str]:
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
        report(row + 1)
