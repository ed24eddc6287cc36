"""Manifest -> pack: what is asked for, what is there already, and what came of it.

The work itself is in `epanns.data.parts`, the format in `epanns.data.pack_format`, reading in `epanns.data.pack`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from epanns import atomic
from epanns.audio.resampling import RESAMPLER_QUALITY
from epanns.data.earlier_pack import finished_pack, has_its_lists, rejects_to_retry, whole_shards
from epanns.data.journal import Journal
from epanns.data.journal_records import ShardEntry
from epanns.data.manifest import ManifestFile
from epanns.data.pack_format import (
    JOURNAL_FILE,
    NOTES,
    PACK_FILE,
    REJECTS_FILE,
    PackCounts,
    PackInfo,
    PackSettings,
    settings_to_dict,
)
from epanns.data.pack_lists import write_notes, write_rejects
from epanns.data.pack_removal import remove_pack
from epanns.data.panns_format import index_file
from epanns.data.panns_writer import is_index_of, write_index
from epanns.data.parts import Packing, PartCounts, pack_parts, parts_of
from epanns.data.system_limits import output_errors
from epanns.errors import ConfigError, DataError, DataProblems, did_you_mean
from epanns.feedback import Progress
from epanns.packages import versions
from epanns.signals import catching_signals

_PACKAGES = ("soundfile", "soxr", "h5py", "numpy")  # what decides the bytes of a pack
_OPTIONAL_PACKAGES = ("av",)  # may be installed between two runs, because the first one asked for it


@dataclass(frozen=True)
class PackSummary:
    """What `pack_manifest` made or found.

    Attributes:
        path: The pack's folder.
        counts: What became of the clips.
        n_shards: HDF5 files.
        n_resumed: Shards kept from an earlier run.
        n_repaired: Shards of an earlier run that were damaged or gone, and were packed again.
        n_retried: Rejects of an earlier run that were retried.
        n_not_retried: Rejects of a finished pack that are due for a retry, but were not retried.
        remarks: Why they were not retried, with the remedy; one sentence each.
    """

    path: Path
    counts: PackCounts
    n_shards: int
    n_resumed: int
    n_repaired: int
    n_retried: int = 0
    n_not_retried: int = 0
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of ``pack --json``."""
        return {
            "pack": str(self.path),
            **asdict(self.counts),
            "shards": self.n_shards,
            "shards_resumed": self.n_resumed,
            "shards_repaired": self.n_repaired,
            "rejects_retried": self.n_retried,
            "rejects_not_retried": self.n_not_retried,
            "remarks": list(self.remarks),
        }


def pack_manifest(  # noqa: PLR0913 - one keyword for each way to carry it out
    manifest: Path,
    out: Path,
    settings: PackSettings,
    *,
    max_bad: float = 0.01,
    jobs: int = 1,
    fresh: bool = False,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> PackSummary:
    """Pack the clips of a manifest; every file is the same for any number of `jobs`.

    A finished pack of the same manifest and settings is read once, and left as it is where every checksum is right;
    what is damaged or gone of it is made again, which ends with the bytes of an undisturbed run. So is a shard some of
    whose clips were rejected, where their files changed since, their decoder was installed, or a process died at them,
    as long as the shard loses no other clip by it. (The index of a panns pack is written anew where the pack was
    moved too.) An unfinished one is continued: shards whose bytes are no longer those in the journal, or whose audio
    files changed since, are made again. The manifest is read as a stream: memory grows with the number of shards, not
    with the clips.

    Args:
        manifest: The CSV file.
        out: The pack's folder.
        settings: What to take and how to convert it.
        max_bad: Share of the clips, 0..1, that may be rejected.
        jobs: Processes that decode.
        fresh: Whether to delete an earlier pack at `out`, finished or not; a folder that holds more is refused.
        progress: Called with (clips done, clips in all), also while the checksums of an earlier run are compared.
        log: Called with one line about where an unfinished pack is resumed.

    Raises:
        ConfigError: If `max_bad` is no share.
        DataError: If the manifest is wrong or holds no clip of the chosen splits, a damaged shard of a finished pack
            cannot be made again because its audio is gone, or the system has no memory for a clip.
        OutputError: If `out` holds another pack or something else, cannot be written, or the system has no more memory,
            processes or open files to give.
        DataProblems: If more than `max_bad` of the clips are rejected, now or in a finished pack; what is there stays.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 came; finished shards stay.
    """
    if not 0 <= max_bad <= 1:
        raise ConfigError(f"max_bad={max_bad:g}: must be a share of the clips, between 0 and 1")
    read = ManifestFile(manifest)
    splits = _choose(read, settings)
    header = _header(read, settings)
    if fresh:
        with output_errors(out, jobs):
            remove_pack(out)
    whole = None
    done = finished_pack(out, header)
    if done is not None:
        with output_errors(out, jobs), catching_signals() as stop:
            whole = whole_shards(out, done, progress, stop)
            if len(whole) == len(done.shards) and has_its_lists(out, done):
                summary = _without_retry(out, done, header, read)
                if summary is not None:
                    counts = done.counts
                    _refuse_too_many((counts.rejected, counts.found, counts.found), max_bad, manifest, summary)
                    _write_index(out, done, is_finished=True)
                    return summary
            (out / JOURNAL_FILE).touch()  # where it was deleted, every clip is packed again
    n_found = sum(read.splits[split].found for split in splits)
    packing = Packing(
        settings=settings,
        labels=read.labels,
        clip_id_bytes=max(read.splits[split].longest_clip_id for split in splits),
        n_clips=n_found,
        n_allowed=_allowed(n_found, max_bad) if whole is None else n_found,
        jobs=jobs,
        progress=progress,
        whole=whole,
        log=log,
    )
    with output_errors(out, jobs), catching_signals() as stop, Journal(out, header) as journal:
        came = pack_parts(packing, read.clips(settings.splits), journal, stop)
        entries = [journal.finished[number] for number in sorted(journal.finished)]
        write_rejects(out, journal.rejects())
        info = _pack_info(read, splits, settings, entries)
        summary = _summary(out, info, came)
        n_rejected, n_done = sum(entry.rejected for entry in entries), sum(entry.clips for entry in entries)
        if whole is None:
            _refuse_too_many((n_rejected, n_done, n_found), max_bad, manifest, summary)
        journal.compact()
        if info.counts.cut is not None:
            write_notes(out, journal.notes())
        _write_index(out, info, is_finished=False)
        atomic.write_json(out / PACK_FILE, info.to_dict())
    _refuse_too_many((n_rejected, n_done, n_found), max_bad, manifest, summary)  # a finished pack stays one
    return summary


def _without_retry(out: Path, done: PackInfo, header: dict[str, Any], manifest: ManifestFile) -> PackSummary | None:
    """Return the summary of a whole pack whose rejects stay rejects, or None where some are retried."""
    n_to_retry, difference = 0, ""
    if done.counts.rejected:
        parts = parts_of(manifest.clips(done.settings.splits), done.settings.clips_per_shard)
        n_to_retry, difference = rejects_to_retry(out, header, parts)
    if n_to_retry and not difference:
        return None
    n_shards = len(done.shards)
    remark = (
        f"{n_to_retry} rejected clips are due for a retry, but the pack was made with {difference}: to "
        "retry them, start over with --fresh"
    )
    remarks = (remark,) if difference else ()
    return PackSummary(out, done.counts, n_shards, n_shards, 0, n_not_retried=n_to_retry, remarks=remarks)


def _summary(out: Path, info: PackInfo, came: PartCounts) -> PackSummary:
    remark = (
        f"{came.not_retried} rejected clips are due for a retry, but their shards would lose other clips, whose "
        "audio is gone or could not be decoded this time: restore it and run the same command again, or start over "
        "with --fresh"
    )
    return PackSummary(
        path=out,
        counts=info.counts,
        n_shards=len(info.shards),
        n_resumed=came.resumed,
        n_repaired=came.repaired,
        n_retried=came.retried,
        n_not_retried=came.not_retried,
        remarks=(remark,) if came.not_retried else (),
    )


def _allowed(n_clips: int, max_bad: float) -> int:
    """Return the whole clips in a share of them, which is taken as it was typed: 0.29 of 100 are 29."""
    return math.floor(Fraction(repr(float(max_bad))) * n_clips)


def _refuse_too_many(counts: tuple[int, int, int], max_bad: float, manifest: Path, summary: PackSummary) -> None:
    n_rejected, n_done, n_clips = counts
    if n_rejected > _allowed(n_clips, max_bad):
        so_far = f" so far ({n_done} were tried)" if n_done < n_clips else ""
        remarks = "".join(f"; {remark}" for remark in summary.remarks)
        raise DataProblems(
            f"{manifest}: {n_rejected} of {n_clips} clips cannot be packed{so_far}, --max-bad {max_bad:g} allows "
            f"{_allowed(n_clips, max_bad)}; reasons are in {summary.path / REJECTS_FILE}: repair the files or raise "
            f"--max-bad, and run again{remarks}"
        )


def _choose(manifest: ManifestFile, settings: PackSettings) -> Sequence[str]:
    """Return the splits to pack, which have at least one clip together."""
    for split in settings.splits:
        if split not in manifest.splits:
            known = ", ".join(manifest.splits) or "none"
            raise DataError(
                f"{manifest.path}: no split {split!r}{did_you_mean(split, manifest.splits)}; it has {known}"
            )
    splits = settings.splits or tuple(manifest.splits)
    if not any(manifest.splits[split].found for split in splits):
        what = f"in split {', '.join(settings.splits)}" if settings.splits else "in it"
        raise DataError(
            f"{manifest.path}: no clip {what} was found on disk; check the data set's folder and run `epanns data`"
        )
    return splits


def _header(manifest: ManifestFile, settings: PackSettings) -> dict[str, Any]:
    """Return what must be equal for a stopped run to be continued."""
    return {
        **settings_to_dict(settings),
        "manifest_sha256": manifest.sha256,
        "labels_digest": manifest.labels.digest,
        "dataset": manifest.dataset,
        "versions": versions(*_PACKAGES),
    }


def _write_index(out: Path, info: PackInfo, *, is_finished: bool) -> None:
    """Write the index of a panns pack; that of a finished one only where it is damaged or the pack was moved since."""
    index, files = out / index_file(info.settings.splits), [out / shard.file for shard in info.shards]
    if info.settings.format == "panns" and files and not (is_finished and is_index_of(index, files)):
        write_index(index, files)


def _pack_info(
    manifest: ManifestFile, splits: Sequence[str], settings: PackSettings, entries: Sequence[ShardEntry]
) -> PackInfo:
    made_with = versions(*_PACKAGES, *_OPTIONAL_PACKAGES)
    found, missing = (sum(getattr(manifest.splits[split], name) for split in splits) for name in ("found", "missing"))
    rejected = sum(entry.rejected for entry in entries)
    numbers = {name: [getattr(entry, name) for entry in entries] for name in NOTES}
    notes: dict[str, Any] = {name: None if None in each else sum(each) for name, each in numbers.items()}
    return PackInfo(
        dataset=manifest.dataset,
        splits=tuple(splits),
        sample_rate=settings.sample_rate,
        clip_samples=settings.clip_samples,
        labels=manifest.labels,
        counts=PackCounts(
            expected=found + missing,
            found=found,
            missing=missing,
            rejected=rejected,
            clips=found - rejected,
            **notes,
        ),
        manifest_sha256=manifest.sha256,
        settings=settings,
        resampler={"name": "soxr", "quality": RESAMPLER_QUALITY, "version": made_with["soxr"]},
        versions=made_with,
        shards=tuple(entry.shard for entry in entries if entry.shard is not None),
    )
