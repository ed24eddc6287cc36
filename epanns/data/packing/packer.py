"""Make a pack of a manifest, or resume or repair one.

The shards are packed in `epanns.data.packing.shard_packing`, the format is in `epanns.data.packs.pack_format`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from epanns import atomic
from epanns.audio.resampling import RESAMPLER_QUALITY
from epanns.data.manifest import ManifestFile
from epanns.data.packing.conversion import is_resource_shortage
from epanns.data.packing.earlier_pack import finished_pack, has_its_lists, rejects_to_retry, remove_pack, whole_shards
from epanns.data.packing.packing_journal import Journal, ShardEntry
from epanns.data.packing.shard_packing import Packing, pack_parts, parts_of
from epanns.data.packs.pack_format import (
    JOURNAL_FILE,
    NOTES,
    PACK_FILE,
    REJECTS_FILE,
    PackCounts,
    PackInfo,
    PackSettings,
    write_notes,
    write_rejects,
)
from epanns.data.packs.panns_file import index_file, is_index_of, write_index
from epanns.errors import ConfigError, DataError, DataProblems, OutputError, did_you_mean
from epanns.feedback import Progress
from epanns.packages import versions
from epanns.process import catching_signals

_PACKAGES = ("soundfile", "soxr", "h5py", "numpy")  # which determine the bytes of a pack
_OPTIONAL_PACKAGES = ("av",)  # may be installed between two runs, to decode rejects of the first one


@dataclass(frozen=True)
class PackSummary:
    """The result of `pack_manifest`.

    Attributes:
        path: The pack's folder.
        counts: Counts of the clips.
        n_shards: Number of HDF5 files.
        n_resumed: Shards kept from an earlier run.
        n_repaired: Shards of an earlier run that were damaged or missing, and were packed again.
        n_retried: Rejects of an earlier run that were retried.
        n_not_retried: Rejects of a finished pack that are due for a retry, but were not retried.
        remarks: Why rejects were not retried, with the remedy; one sentence each.
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


def pack_manifest(  # noqa: PLR0913 - one keyword for each option
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

    A finished pack of the same manifest and settings is read once and left unchanged if every checksum is right.
    Damaged or missing files are made again, with the bytes of an undisturbed run. A shard with rejected clips is packed
    again if their files changed, their decoder was installed, or a process died at them, unless the shard would lose
    another clip. The index of a pack in PANNs' format is also written again after a move. An unfinished pack is
    resumed: shards that are damaged, or whose audio files changed, are packed again. The manifest is read as a stream:
    memory grows with the number of shards, not with the number of clips.

    Args:
        manifest: The CSV file.
        out: The pack's folder.
        settings: Splits to pack, and how clips are converted.
        max_bad: Fraction of the clips, 0..1, that may be rejected.
        jobs: Number of decoding processes.
        fresh: Whether to delete an earlier pack at `out`, finished or not; a folder with other files is refused.
        progress: Called with (clips done, clips in all), also while the checksums of an earlier run are compared.
        log: Called with one line about the resumption of an unfinished pack.

    Raises:
        ConfigError: If `max_bad` is not in 0..1.
        DataError: If the manifest is invalid or has no clip of the chosen splits, a damaged shard of a finished pack
            cannot be packed again because its audio is missing, or the system lacks memory for a clip.
        OutputError: If `out` holds another pack or something else, cannot be written, or the system lacks memory,
            processes or open files.
        DataProblems: If more than `max_bad` of the clips are rejected, now or in a finished pack, which is kept.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 was received; finished shards are kept.
    """
    if not 0 <= max_bad <= 1:
        raise ConfigError(f"max_bad={max_bad:g}: must be a share of the clips, between 0 and 1")
    read = ManifestFile(manifest)
    splits = _choose(read, settings)
    header = {  # what must be equal to resume a stopped run
        **settings.to_dict(),
        "manifest_sha256": read.sha256,
        "labels_digest": read.labels.digest,
        "dataset": read.dataset,
        "versions": versions(*_PACKAGES),
    }
    if fresh:
        with _output_errors(out, jobs):
            remove_pack(out)
    whole = None
    done = finished_pack(out, header)
    if done is not None:
        with _output_errors(out, jobs), catching_signals() as stop:
            whole = whole_shards(out, done, progress, stop)
            if len(whole) == len(done.shards) and has_its_lists(out, done):
                summary = _without_retry(out, done, header, read)
                if summary is not None:
                    counts = done.counts
                    _refuse_too_many((counts.rejected, counts.found, counts.found), max_bad, manifest, summary)
                    _write_index(out, done, is_finished=True)
                    return summary
            (out / JOURNAL_FILE).touch()  # without a journal every clip is packed again
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
    with _output_errors(out, jobs), catching_signals() as stop, Journal(out, header) as journal:
        done_now = pack_parts(packing, read.clips(settings.splits), journal, stop)
        entries = [journal.finished[number] for number in sorted(journal.finished)]
        write_rejects(out, journal.rejects())
        info = _pack_info(read, splits, settings, entries)
        remark = (
            f"{done_now.not_retried} rejected clips are due for a retry, but their shards would lose other clips, "
            "whose audio is gone or could not be decoded this time: restore it and run the same command again, or "
            "start over with --fresh"
        )
        summary = PackSummary(
            path=out,
            counts=info.counts,
            n_shards=len(info.shards),
            n_resumed=done_now.resumed,
            n_repaired=done_now.repaired,
            n_retried=done_now.retried,
            n_not_retried=done_now.not_retried,
            remarks=(remark,) if done_now.not_retried else (),
        )
        n_rejected, n_done = sum(entry.rejected for entry in entries), sum(entry.clips for entry in entries)
        if whole is None:
            _refuse_too_many((n_rejected, n_done, n_found), max_bad, manifest, summary)
        journal.compact()
        write_notes(out, journal.notes())
        _write_index(out, info, is_finished=False)
        atomic.write_json(out / PACK_FILE, info.to_dict())
    # After pack.json: a finished pack is kept.
    _refuse_too_many((n_rejected, n_done, n_found), max_bad, manifest, summary)
    return summary


@contextmanager
def _output_errors(out: Path, jobs: int) -> Iterator[None]:
    """Raise `OutputError` with a remedy if the disk is full, `out` cannot be written, or a system limit is reached."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if is_resource_shortage(error):
            fewer = " or give fewer --jobs" if jobs > 1 else ""
            raise OutputError(
                f"{out}: the system has no more memory, processes or open files ({reason}); free some{fewer}, and run "
                "the same command again: finished shards are kept"
            ) from error
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"{out}: cannot be written ({reason}); make room or choose another --out, then run the same command again: "
            "finished shards are kept"
        ) from error


def _without_retry(out: Path, done: PackInfo, header: dict[str, Any], manifest: ManifestFile) -> PackSummary | None:
    """Return the summary of an undamaged pack whose rejects are not retried, or None if some are."""
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


def _allowed(n_clips: int, max_bad: float) -> int:
    """Return the largest number of rejects, from the decimal digits of `max_bad`: 0.29 of 100 clips is 29, not 28."""
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
    """Return the splits to pack; raise unless they exist and have a clip."""
    for split in settings.splits:
        if split not in manifest.splits:
            known = ", ".join(manifest.splits) or "none"
            raise DataError(
                f"{manifest.path}: no split {split!r}{did_you_mean(split, manifest.splits)}; it has {known}"
            )
    splits = settings.splits or tuple(manifest.splits)
    if not any(manifest.splits[split].found for split in splits):
        where = f" of split {', '.join(settings.splits)}" if settings.splits else ""
        raise DataError(
            f"{manifest.path}: no clip{where} was found on disk; check the data set's folder and run `epanns data`"
        )
    return splits


def _write_index(out: Path, info: PackInfo, *, is_finished: bool) -> None:
    """Write the index of a pack in PANNs' format; that of a finished pack only if it is damaged or was moved."""
    index, files = out / index_file(info.settings.splits), [out / shard.file for shard in info.shards]
    if info.settings.format == "panns" and files and not (is_finished and is_index_of(index, files)):
        write_index(index, files)


def _pack_info(
    manifest: ManifestFile, splits: Sequence[str], settings: PackSettings, entries: Sequence[ShardEntry]
) -> PackInfo:
    made_with = versions(*_PACKAGES, *_OPTIONAL_PACKAGES)
    found, missing = (sum(getattr(manifest.splits[split], name) for split in splits) for name in ("found", "missing"))
    rejected = sum(entry.rejected for entry in entries)
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
            **{name: sum(entry.notes[name] for entry in entries) for name in NOTES},
        ),
        manifest_sha256=manifest.sha256,
        settings=settings,
        resampler={"name": "soxr", "quality": RESAMPLER_QUALITY, "version": made_with["soxr"]},
        versions=made_with,
        shards=tuple(entry.shard for entry in entries if entry.shard is not None),
    )
