"""Manifest -> pack: decode in parallel, write shard after shard, go on after a stop.

The format is in `epanns.data.pack_format`, reading in `epanns.data.pack`.
"""

import csv
import functools
import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from epanns import atomic
from epanns.audio.waveform import RESAMPLER_QUALITY
from epanns.data.conversion import PackedClip, convert_clip
from epanns.data.journal import Journal, ShardEntry, make_entry, refuse_difference, remove_pack
from epanns.data.manifest import Clip, Manifest
from epanns.data.manifest_reader import read_manifest
from epanns.data.pack_format import (
    PACK_FILE,
    REJECTS_FILE,
    PackCounts,
    PackInfo,
    PackSettings,
    read_pack_info,
    settings_to_dict,
    shard_name,
)
from epanns.data.shard_writer import ShardRow, write_shard
from epanns.data.workers import ordered_map
from epanns.errors import DataError, DataProblems, OutputError, did_you_mean
from epanns.installed import versions
from epanns.labels import LabelSet
from epanns.progress import Progress

_PACKAGES = ("soundfile", "soxr", "h5py", "numpy")  # what decides the bytes of a pack


@dataclass(frozen=True)
class PackSummary:
    """What `pack_manifest` made or found.

    Attributes:
        path: The pack's folder.
        counts: What became of the clips.
        n_shards: HDF5 files.
        n_resumed: Shards kept from an earlier run.
    """

    path: Path
    counts: PackCounts
    n_shards: int
    n_resumed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of ``pack --json``."""
        return {
            "pack": str(self.path),
            **asdict(self.counts),
            "shards": self.n_shards,
            "shards_resumed": self.n_resumed,
        }


def pack_manifest(
    manifest: Path,
    out: Path,
    settings: PackSettings,
    *,
    max_bad: float = 0.01,
    jobs: int = 1,
    fresh: bool = False,
    progress: Progress | None = None,
) -> PackSummary:
    """Pack the clips of a manifest; every file is the same for any number of `jobs`.

    A finished pack of the same manifest and settings is left as it is; an unfinished one is continued after its last
    whole shard. Shards whose audio files changed since are made again.

    Args:
        manifest: The CSV file.
        out: The pack's folder.
        settings: What to take and how to convert it.
        max_bad: Share of the clips, 0..1, that may be rejected.
        jobs: Processes that decode.
        fresh: Whether to delete an earlier pack at `out`, finished or not; a folder that holds more is refused.
        progress: Called with (clips done, clips in all).

    Raises:
        DataError: If the manifest is wrong or holds no clip of the chosen splits.
        OutputError: If `out` holds another pack or something else, or cannot be written.
        DataProblems: If more than `max_bad` of the clips are rejected, now or in a finished pack; what is there stays.
    """
    read = read_manifest(manifest)
    clips = _choose(read.clips, settings, read, manifest)
    header = _header(read, manifest, settings)
    if fresh:
        with _output_errors(out):
            remove_pack(out)
    done = _finished(out, header)
    if done is not None:
        _refuse_too_many(done.counts.rejected, done.counts.found, max_bad, manifest, out)
        return PackSummary(out, done.counts, len(done.shards), len(done.shards))
    paths = {clip.clip_id: Path(clip.path) for clip in clips}
    with _output_errors(out), Journal(out, header, paths) as journal:
        n_resumed = len(journal.finished)
        n_allowed = _allowed(len(clips), max_bad)
        packing = _Packing(settings, read.labels, max(len(clip.clip_id.encode()) for clip in clips))
        _pack_parts(journal, clips, packing, jobs=jobs, n_allowed=n_allowed, progress=progress)
        entries = [journal.finished[number] for number in sorted(journal.finished)]
    rejects = [reject for entry in entries for reject in entry.rejects]
    atomic.write_text(out / REJECTS_FILE, _rejects_csv(rejects))
    _refuse_too_many(len(rejects), len(clips), max_bad, manifest, out)
    counts = _count(read, clips, settings, entries)
    info = _pack_info(read, manifest, settings, counts, entries)
    atomic.write_json(out / PACK_FILE, info.to_dict())
    return PackSummary(out, counts, len(info.shards), n_resumed)


def _allowed(n_clips: int, max_bad: float) -> int:
    return int(max_bad * n_clips)


def _refuse_too_many(n_rejected: int, n_clips: int, max_bad: float, manifest: Path, out: Path) -> None:
    if n_rejected > _allowed(n_clips, max_bad):
        raise DataProblems(
            f"{manifest}: {n_rejected} of {n_clips} clips cannot be packed, --max-bad {max_bad:g} allows "
            f"{_allowed(n_clips, max_bad)}; reasons are in {out / REJECTS_FILE}: repair the files or raise --max-bad, "
            "and run again"
        )


@contextmanager
def _output_errors(out: Path) -> Iterator[None]:
    """Say what to do when the disk is full or the folder may not be written to."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error}); make room or choose another --out, then run the "
            "same command again: finished shards are kept"
        ) from error


def _choose(clips: Sequence[Clip], settings: PackSettings, manifest: Manifest, path: Path) -> list[Clip]:
    """Return the clips of the chosen splits, in the manifest's order."""
    for split in settings.splits:
        if split not in manifest.splits:
            known = ", ".join(manifest.splits) or "none"
            raise DataError(f"{path}: no split {split!r}{did_you_mean(split, manifest.splits)}; it has {known}")
    chosen = [clip for clip in clips if not settings.splits or clip.split in settings.splits]
    if not chosen:
        what = f"in split {', '.join(settings.splits)}" if settings.splits else "in it"
        raise DataError(f"{path}: no clip {what} was found on disk; check the data set's folder and run `epanns data`")
    return chosen


def _header(manifest: Manifest, path: Path, settings: PackSettings) -> dict[str, Any]:
    """Return what must be equal for a stopped run to be continued."""
    return {
        **settings_to_dict(settings),
        "manifest_sha256": atomic.sha256_of(path),
        "labels_digest": manifest.labels.digest,
        "dataset": manifest.dataset,
        "versions": versions(*_PACKAGES),
    }


def _finished(out: Path, header: dict[str, Any]) -> PackInfo | None:
    """Return the pack at `out` if it is finished and made from the same manifest with the same settings."""
    if not (out / PACK_FILE).is_file():
        return None
    info = read_pack_info(out)
    held = {
        **settings_to_dict(info.settings),
        "manifest_sha256": info.manifest_sha256,
        "labels_digest": info.labels.digest,
        "dataset": info.dataset,
    }
    refuse_difference(out, held, {key: header[key] for key in held})  # versions may have moved on since
    return info


@dataclass(frozen=True)
class _Packing:
    """What turns clips into rows."""

    settings: PackSettings
    labels: LabelSet
    clip_id_bytes: int

    def rows(self, part: list[Clip], converted: Iterator[PackedClip], results: list[PackedClip]) -> Iterator[ShardRow]:
        """Yield the rows of one shard; `results` gets every clip's outcome, rejected or not, without its waveform."""
        for clip, packed in zip(part, converted, strict=False):
            results.append(replace(packed, waveform=None))
            if packed.waveform is not None:
                target = np.zeros(len(self.labels), bool)
                target[[self.labels.index(label) for label in clip.labels]] = True
                yield ShardRow(clip.clip_id, packed.waveform, packed.n_samples, target, packed.crc32)


def _pack_parts(
    journal: Journal, clips: list[Clip], packing: _Packing, *, jobs: int, n_allowed: int, progress: Progress | None
) -> None:
    """Write the shards that are not finished; stop early once too many clips are rejected."""
    size = packing.settings.clips_per_shard
    parts = {number: clips[first : first + size] for number, first in enumerate(range(0, len(clips), size))}
    todo = {number: part for number, part in parts.items() if number not in journal.finished}
    n_rejected = sum(len(entry.rejects) for entry in journal.finished.values())
    convert = functools.partial(
        convert_clip, sample_rate=packing.settings.sample_rate, clip_samples=packing.settings.clip_samples
    )
    stream = ordered_map(convert, (clip for part in todo.values() for clip in part), jobs)
    with closing(_counted(stream, len(clips) - sum(map(len, todo.values())), len(clips), progress)) as converted:
        for number, part in todo.items():
            if n_rejected > n_allowed:
                return
            results: list[PackedClip] = []
            path = journal.folder / shard_name(number)
            shard = write_shard(
                path,
                packing.rows(part, converted, results),
                most_rows=len(part),
                clip_id_bytes=packing.clip_id_bytes,
            )
            if shard is None:
                path.unlink(missing_ok=True)  # of an earlier run, when the clips could still be read
            journal.append(make_entry(number, shard, part, results), part, results)
            n_rejected += len(journal.finished[number].rejects)


def _counted(
    stream: Generator[PackedClip, None, None], n_before: int, total: int, progress: Progress | None
) -> Generator[PackedClip, None, None]:
    for n_done, packed in enumerate(stream, start=n_before + 1):
        if progress is not None:
            progress(n_done, total)
        yield packed


def _rejects_csv(rejects: Sequence[tuple[str, str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["clip_id", "path", "reason"])
    writer.writerows(rejects)
    return text.getvalue()


def _count(
    manifest: Manifest, clips: Sequence[Clip], settings: PackSettings, entries: Sequence[ShardEntry]
) -> PackCounts:
    n_missing = sum(1 for clip in manifest.missing if not settings.splits or clip.split in settings.splits)
    n_rejected = sum(len(entry.rejects) for entry in entries)
    return PackCounts(
        expected=len(clips) + n_missing,
        found=len(clips),
        missing=n_missing,
        rejected=n_rejected,
        clips=len(clips) - n_rejected,
        clipped=sum(entry.clipped for entry in entries),
        silent=sum(entry.silent for entry in entries),
    )


def _pack_info(
    manifest: Manifest, path: Path, settings: PackSettings, counts: PackCounts, entries: Sequence[ShardEntry]
) -> PackInfo:
    made_with = versions(*_PACKAGES)
    return PackInfo(
        dataset=manifest.dataset,
        splits=settings.splits or tuple(manifest.splits),
        sample_rate=settings.sample_rate,
        clip_samples=settings.clip_samples,
        labels=manifest.labels,
        counts=counts,
        manifest_sha256=atomic.sha256_of(path),
        settings=settings,
        resampler={"name": "soxr", "quality": RESAMPLER_QUALITY, "version": made_with["soxr"]},
        versions=made_with,
        shards=tuple(entry.shard for entry in entries if entry.shard is not None),
    )
