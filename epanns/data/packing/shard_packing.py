"""Pack the parts of a manifest into shards, in order; finished shards are skipped.

While the clips of a shard are decoded and written, the shard before it is flushed to the disk and added to the journal.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epanns import atomic
from epanns.data.clip import Clip
from epanns.data.packing.conversion import PackedClip, convert_clip, crashing_clip
from epanns.data.packing.decoding_pool import Row, ordered_rows
from epanns.data.packing.packing_journal import Journal, ShardEntry
from epanns.data.packs.pack_format import NOTES, PackSettings, ShardInfo, shard_name
from epanns.data.packs.panns_file import write_waveform_file
from epanns.data.packs.shard import ShardRow, write_shard
from epanns.errors import DataError, Interrupted
from epanns.feedback import Progress
from epanns.labels import LabelSet
from epanns.process import Stopped, StopRequest

Part = tuple[int, list[Clip]]
RowStream = Iterator[tuple[PackedClip, Row]]


@dataclass
class PartCounts:
    """Counts of the shards and rejects of an earlier run.

    Attributes:
        resumed: Finished shards that are kept.
        repaired: Finished shards that were damaged or missing.
        retried: Rejects of finished shards that were retried.
        not_retried: Rejects of a finished pack that are due for a retry, but whose shard would lose other clips.
    """

    resumed: int = 0
    repaired: int = 0
    retried: int = 0
    not_retried: int = 0


@dataclass(frozen=True)
class Packing:
    """How the clips of a manifest become shards.

    Attributes:
        settings: Settings of the pack.
        labels: Classes of the targets.
        clip_id_bytes: Length of the longest clip id.
        n_clips: Number of clips.
        n_allowed: Largest number of rejected clips, beyond which the run ends early.
        jobs: Number of decoding processes.
        progress: Called with (clips done, clips in all), also for the shards that are skipped.
        whole: The undamaged shards of a finished pack, which are kept even if their audio files changed, unless a
            reject is retried; None for an unfinished pack.
        log: Called with one line about the resumption of an unfinished pack.
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
        """Number of shards, including those without rows."""
        return -(-self.n_clips // self.settings.clips_per_shard)


def pack_parts(packing: Packing, clips: Iterable[Clip], journal: Journal, stop: StopRequest) -> PartCounts:
    """Write the shards that are not finished or damaged; stop early once too many clips are rejected.

    Of the journal's `finished`, the parts that were reached are kept; after an early stop these are not all parts.

    Raises:
        DataError: If audio of a damaged shard of a finished pack is missing; the shard is kept.
        Interrupted: If a signal was received; finished shards are kept.
    """
    if packing.log is not None and packing.whole is None and journal.finished:
        packing.log(f"resume: {len(journal.finished)} of {packing.n_parts} shards are done")
    run = _Run(packing, journal, stop)
    todo, ahead = itertools.tee(run.unfinished(parts_of(clips, packing.settings.clips_per_shard)))
    convert = functools.partial(
        convert_clip, sample_rate=packing.settings.sample_rate, min_seconds=packing.settings.min_seconds
    )
    # The processes decode a few clips ahead of the writing, sometimes those of the next part.
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
        with closing(rows), ThreadPoolExecutor(1) as thread:
            for number, part in todo:
                if run.n_rejected > packing.n_allowed:
                    break
                run.write(number, part, rows, thread)
            run.wait_for_last()
    except Stopped as stopped:
        raise Interrupted(
            stopped.signal_number,
            f"{journal.folder}: stopped by signal {stopped.signal_number} after {len(journal.finished)} of "
            f"{packing.n_parts} shards; run the same command again without --fresh to resume",
        ) from None
    journal.finished = {number: entry for number, entry in journal.finished.items() if number in run.reached}
    return run.counts


def parts_of(clips: Iterable[Clip], size: int) -> Iterator[Part]:
    """Return an iterator over the number and the clips of each part."""
    stream = iter(clips)
    return enumerate(iter(lambda: list(itertools.islice(stream, size)), []))


class _Run:
    """One pass through the parts, with its counts."""

    def __init__(self, packing: Packing, journal: Journal, stop: StopRequest) -> None:
        self.packing, self.journal, self.stop = packing, journal, stop
        self.n_done = self.n_rejected = 0
        self.counts = PartCounts()
        self.reached: set[int] = set()
        self._retried: dict[int, tuple[ShardEntry, int]] = {}  # former shards, and numbers of their retried rejects
        self._last: Future[None] | None = None

    def unfinished(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield the parts that must be packed."""
        for number, part in parts:
            self.stop.raise_if_stopped()
            self.reached.add(number)
            if self._is_kept(number, part):
                self.counts.resumed += 1
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
                n_to_retry = self.journal.n_to_retry(number, part)
                if n_to_retry and self.journal.lost_source(number, part) is None:
                    self.counts.retried += n_to_retry
                    self._retried[number] = (entry, n_to_retry)
                    return False
                self.counts.not_retried += n_to_retry
                return True
            lost = self.journal.lost_source(number, part)
            if lost is not None:  # most of the damaged shard may be readable
                raise DataError(
                    f"{self._path_of(number)}: must be packed again, but {lost} cannot be read any more: restore the "
                    "audio and run the same command again, copy the pack again, or start over with --fresh"
                )
        elif entry is None or not self.journal.is_current(number, part):
            self.counts.retried += self.journal.n_to_retry(number, part)
            return False
        elif self._is_whole(entry):
            return True
        self.counts.repaired += 1
        return False

    def _is_whole(self, entry: ShardEntry) -> bool:
        """Return whether the file of a finished shard is undamaged; it is read if that is not known."""
        if entry.shard is None:
            return True
        if entry.shard.file != shard_name(entry.number, self.packing.settings.format):
            return False
        return entry.shard in (self.packing.whole or ()) or entry.shard.is_whole(self.journal.folder)

    def write(self, number: int, part: list[Clip], rows: RowStream, thread: ThreadPoolExecutor) -> None:
        """Write one shard as ``NAME.partial``, and finish it in a thread."""
        settings, path = self.packing.settings, self._path_of(number)
        partial, packed = atomic.partial_of(path), list[PackedClip]()
        path.parent.mkdir(exist_ok=True)
        partial.unlink(missing_ok=True)  # of a run that was killed
        write: Callable[..., int] = write_shard
        if settings.format == "panns":
            write = functools.partial(write_waveform_file, sample_rate=settings.sample_rate)
        shard_rows, id_bytes = self._shard_rows(part, rows, packed), self.packing.clip_id_bytes
        try:
            n_rows = write(partial, shard_rows, most_rows=len(part), clip_id_bytes=id_bytes)
            if number in self._retried:
                entry, n_to_retry = self._retried[number]
                lines = self.journal.lines_of(entry)
                if any(clip.reason and not line.get("reason") for line, clip in zip(lines, packed, strict=True)):
                    # The retry would lose a row, so the former shard is kept.
                    partial.unlink(missing_ok=True)
                    self.journal.finished[number] = entry
                    self.counts.retried -= n_to_retry
                    self.counts.not_retried += n_to_retry
                    self.counts.resumed += 1
                    self.n_rejected += entry.rejected
                    return
            self.wait_for_last()
            self._last = thread.submit(self._finish, number, n_rows, part, packed)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self.n_rejected += len(part) - n_rows

    def wait_for_last(self) -> None:
        """Wait until the shard that was written last is finished."""
        if self._last is not None:
            self._last.result()

    def _finish(self, number: int, n_rows: int, part: Sequence[Clip], packed: Sequence[PackedClip]) -> None:
        """Hash and rename a written shard, and add it to the journal."""
        path, shard = self._path_of(number), None
        if n_rows:
            with atomic.replacing(path) as partial:
                digest = atomic.sha256_of(partial)
            shard = ShardInfo(path.relative_to(self.journal.folder).as_posix(), n_rows, digest)
        else:
            path.unlink(missing_ok=True)  # of an earlier run, in which clips could be decoded
        notes = {name: sum(name in clip.notes for clip in packed) for name in NOTES}
        self.journal.append(ShardEntry(number, shard, len(part), len(part) - n_rows, notes), part, packed)

    def _path_of(self, number: int) -> Path:
        return self.journal.folder / shard_name(number, self.packing.settings.format)

    def _shard_rows(self, part: list[Clip], rows: RowStream, results: list[PackedClip]) -> Iterator[ShardRow]:
        """Yield the rows of one shard, and append the outcome of every clip to `results`."""
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
