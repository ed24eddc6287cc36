"""The parts of a manifest become shards, one after the other; those that are finished already are passed over.

While a shard is written and its clips are decoded, the one before it is put on the disk and into the journal.
"""

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from epanns import atomic
from epanns.data.clip import Clip
from epanns.data.conversion import PackedClip, convert_clip, crashing_clip
from epanns.data.journal import Journal
from epanns.data.journal_records import ShardEntry
from epanns.data.pack_format import NOTES, PackSettings, ShardInfo, shard_name
from epanns.data.panns_writer import write_waveform_file
from epanns.data.shard_writer import ShardRow, write_shard
from epanns.data.worker_process import Rows
from epanns.data.workers import ordered_rows
from epanns.errors import DataError, Interrupted
from epanns.feedback import Progress
from epanns.labels import LabelSet
from epanns.signals import Stopped, StopRequest

Part = tuple[int, list[Clip]]
RowStream = Generator[tuple[PackedClip, Rows], None, None]


@dataclass(frozen=True)
class PartCounts:
    """Counts of the shards and rejects that an earlier run left.

    Attributes:
        resumed: Shards that were finished and stay.
        repaired: Shards that were finished, but damaged or gone.
        retried: Rejects of finished shards that were retried.
        not_retried: Rejects of a finished pack that are due for a retry, but whose shard would lose other clips.
    """

    resumed: int
    repaired: int
    retried: int
    not_retried: int


@dataclass(frozen=True)
class Packing:
    """How the clips of a manifest become shards.

    Attributes:
        settings: As the user gave them.
        labels: Classes of the targets.
        clip_id_bytes: Of the longest clip id.
        n_clips: In all parts.
        n_allowed: Clips that may be rejected before the run is given up.
        jobs: Processes that decode.
        progress: Called with (clips done, clips in all), for each finished part when it has been passed over.
        whole: Of a finished pack, the shards that stay whatever became of their sources, unless a reject is
            retried; else None.
        log: Called with one line about where an unfinished pack is resumed.
    """

    settings: PackSettings
    labels: LabelSet
    clip_id_bytes: int
    n_clips: int
    n_allowed: int
    jobs: int
    progress: Progress | None
    whole: frozenset[ShardInfo] | None = None
    log: Callable[[str], None] | None = None

    @property
    def n_parts(self) -> int:
        """How many shards there will be, those included that stay empty."""
        return -(-self.n_clips // self.settings.clips_per_shard)


def pack_parts(packing: Packing, clips: Iterable[Clip], journal: Journal, stop: StopRequest) -> PartCounts:
    """Write the shards that are not finished or not whole; stop early once too many clips are rejected.

    In the journal's `finished` stay the parts that were looked at; after an early stop that is not all of them.

    Raises:
        DataError: If audio of a damaged shard of a finished pack is gone; the shard stays.
        Interrupted: If a signal came; what is finished stays.
    """
    if packing.log is not None and packing.whole is None and journal.finished:
        packing.log(f"resume: {len(journal.finished)} of {packing.n_parts} shards are done")
    run = _Run(packing, journal, stop)
    todo, ahead = itertools.tee(run.unfinished(parts_of(clips, packing.settings.clips_per_shard)))
    convert = functools.partial(
        convert_clip, sample_rate=packing.settings.sample_rate, min_seconds=packing.settings.min_seconds
    )
    # The workers are given clips a little ahead of the writing, at times those of the next part.
    rows = ordered_rows(
        convert,
        (clip for _, part in ahead for clip in part),
        packing.jobs,
        packing.settings.clip_samples,
        name=lambda clip: clip.path,
        crashed=crashing_clip,
        check=stop.raise_if_stopped,
    )
    try:
        with closing(rows), _Finisher(journal) as finisher:
            for number, part in todo:
                if run.n_rejected > packing.n_allowed:
                    break
                run.write(number, part, rows, finisher)
    except Stopped as stopped:
        raise Interrupted(
            stopped.signal_number,
            f"{journal.folder}: stopped by signal {stopped.signal_number} after {len(journal.finished)} of "
            f"{packing.n_parts} shards; run the same command again without --fresh to go on",
        ) from None
    journal.keep_only(run.looked_at)
    return PartCounts(run.n_resumed, run.n_damaged, run.n_retried, run.n_not_retried)


def parts_of(clips: Iterable[Clip], size: int) -> Iterator[Part]:
    """Yield the number and the clips of each part."""
    stream = iter(clips)
    for number in itertools.count():
        part = list(itertools.islice(stream, size))
        if not part:
            return
        yield number, part


class _Run:
    """The way through the parts, counted."""

    def __init__(self, packing: Packing, journal: Journal, stop: StopRequest) -> None:
        self.packing, self.journal, self.stop = packing, journal, stop
        self.n_done = self.n_rejected = self.n_resumed = self.n_damaged = self.n_retried = self.n_not_retried = 0
        self.looked_at: set[int] = set()
        self._retried: dict[int, tuple[ShardEntry, int]] = {}  # former shards, and how many rejects are retried

    def unfinished(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Pass on the parts that are to be packed."""
        for number, part in parts:
            self.stop.raise_if_stopped()
            self.looked_at.add(number)
            if self._is_kept(number, part):
                self.n_resumed += 1
                self.n_done += len(part)
                self.n_rejected += self.journal.finished[number].rejected
                self._report()
            else:
                self.journal.finished.pop(number, None)
                yield number, part

    def _is_kept(self, number: int, part: list[Clip]) -> bool:
        entry = self.journal.finished.get(number)
        if self.packing.whole is not None:
            if entry is not None and entry.clips == len(part) and self._is_whole(entry):
                return self._stays(number, part)
            self._refuse_loss(number, part)
        elif entry is None or not self.journal.is_current(number, part):
            self.n_retried += self.journal.n_to_retry(number, part)
            return False
        elif self._is_whole(entry):
            return True
        self.n_damaged += 1
        return False

    def _is_whole(self, entry: ShardEntry) -> bool:
        """Return whether the file of a finished shard is as it was written; it may be read for that."""
        if entry.shard is None:
            return True
        if entry.shard.file != shard_name(entry.number, self.packing.settings.format):
            return False
        return entry.shard in (self.packing.whole or ()) or entry.shard.is_whole(self.journal.folder)

    def _stays(self, number: int, part: list[Clip]) -> bool:
        """Return whether a whole shard of a finished pack stays: none of its rejects is retried."""
        n_to_retry = self.journal.n_to_retry(number, part)
        if n_to_retry and self.journal.lost_source(number, part) is None:
            self.n_retried += n_to_retry
            self._retried[number] = (self.journal.finished[number], n_to_retry)
            return False
        self.n_not_retried += n_to_retry
        return True

    def _would_lose(self, number: int, packed: Sequence[PackedClip]) -> bool:
        """Return whether a shard that is made for its rejects lacks a clip that it had; then the former one stays."""
        if number not in self._retried:
            return False
        entry, n_to_retry = self._retried[number]
        if not any(had_row and clip.reason for had_row, clip in zip(self.journal.packed(entry), packed, strict=True)):
            return False
        self.journal.finished[number] = entry
        self.n_retried -= n_to_retry
        self.n_not_retried += n_to_retry
        self.n_resumed += 1
        self.n_rejected += entry.rejected
        return True

    def _refuse_loss(self, number: int, part: list[Clip]) -> None:
        """Keep a damaged shard, most of which may be readable, where it could not be made again."""
        lost = self.journal.lost_source(number, part)
        if lost is not None:
            shard = self.journal.folder / shard_name(number, self.packing.settings.format)
            raise DataError(
                f"{shard}: must be packed again, but {lost} cannot be read any more: restore the audio and run the "
                "same command again, copy the pack again, or start over with --fresh"
            )

    def write(self, number: int, part: list[Clip], rows: RowStream, finisher: "_Finisher") -> None:
        """Write one shard as ``NAME.partial`` and hand it on."""
        path = self.journal.folder / shard_name(number, self.packing.settings.format)
        path.parent.mkdir(exist_ok=True)
        atomic.partial_of(path).unlink(missing_ok=True)  # of a run that was killed
        packed: list[PackedClip] = []
        try:
            n_rows = self._write_file(atomic.partial_of(path), self._shard_rows(part, rows, packed), len(part))
            if self._would_lose(number, packed):
                atomic.partial_of(path).unlink(missing_ok=True)
                return
            finisher.take(path, n_rows, number, part, packed)
        except BaseException:
            atomic.partial_of(path).unlink(missing_ok=True)
            raise
        self.n_rejected += len(part) - n_rows

    def _write_file(self, path: Path, rows: Iterator[ShardRow], most_rows: int) -> int:
        settings, clip_id_bytes = self.packing.settings, self.packing.clip_id_bytes
        if settings.format == "panns":
            return write_waveform_file(
                path, rows, most_rows=most_rows, clip_id_bytes=clip_id_bytes, sample_rate=settings.sample_rate
            )
        return write_shard(path, rows, most_rows=most_rows, clip_id_bytes=clip_id_bytes)

    def _shard_rows(self, part: list[Clip], rows: RowStream, results: list[PackedClip]) -> Iterator[ShardRow]:
        """Yield the rows of one shard; `results` gets every clip's outcome, rejected or not."""
        self._report()
        for clip, (packed, row) in zip(part, rows, strict=False):
            results.append(packed)
            if not packed.reason:
                target = np.zeros(len(self.packing.labels), bool)
                target[[self.packing.labels.index(label) for label in clip.labels]] = True
                yield ShardRow(clip.clip_id, row, packed.n_samples, target, packed.crc32)
            self.n_done += 1
            self._report()
            self.stop.raise_if_stopped()

    def _report(self) -> None:
        if self.packing.progress is not None:
            self.packing.progress(self.n_done, self.packing.n_clips)


class _Finisher:
    """A thread that hashes shards, puts them in place and notes them in the journal, one after the other."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> "_Finisher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self._settle()

    def take(self, path: Path, n_rows: int, number: int, part: Sequence[Clip], packed: Sequence[PackedClip]) -> None:
        """Finish a shard that is written, as soon as the one before it is finished."""
        self._settle()
        self._last = self._thread.submit(self._finish, path, n_rows, number, part, packed)

    def _settle(self) -> None:
        if self._last is not None:
            self._last.result()

    def _finish(self, path: Path, n_rows: int, number: int, part: Sequence[Clip], packed: Sequence[PackedClip]) -> None:
        shard = None
        if n_rows:
            digest = self._put_in_place(path)
            shard = ShardInfo(path.relative_to(self._journal.folder).as_posix(), n_rows, digest)
        else:
            path.unlink(missing_ok=True)  # of an earlier run, when the clips could still be read
        entry = ShardEntry(
            number=number,
            shard=shard,
            clips=len(packed),
            rejected=len(packed) - n_rows,
            **{name: sum(name in clip.notes for clip in packed) for name in NOTES},
        )
        self._journal.append(entry, part, packed)

    def _put_in_place(self, path: Path) -> str:
        """Give a shard that is written its name, or remove it where that fails; return its sha256."""
        partial = atomic.partial_of(path)
        try:
            digest = atomic.sha256_of(partial)
            atomic.put_in_place(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return digest
