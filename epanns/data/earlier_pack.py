"""The pack that an earlier run left: whether it is finished, and what of it is whole."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from epanns.data.clip import Clip
from epanns.data.journal import pack_difference, refuse_difference
from epanns.data.journal_records import JournalRecords
from epanns.data.pack_format import (
    FORMAT,
    JOURNAL_FILE,
    PACK_FILE,
    PackInfo,
    ShardInfo,
    complete_settings,
    read_pack_info,
    settings_to_dict,
)
from epanns.data.pack_lists import problem_of_notes, problem_of_rejects
from epanns.errors import DataError, Interrupted, PackError
from epanns.feedback import Progress
from epanns.signals import StopRequest


def finished_pack(out: Path, header: dict[str, Any]) -> PackInfo | None:
    """Return the pack at `out` if it is finished and made from the same manifest with the same settings.

    A damaged ``pack.json`` beside a journal counts as not yet written.

    Raises:
        OutputError: If it was made from another manifest or with other settings.
        PackError: If ``pack.json`` is not ours, or damaged and without a journal.
    """
    if not (out / PACK_FILE).is_file():
        return None
    try:
        info = read_pack_info(out)
    except PackError:
        if (out / JOURNAL_FILE).is_file() and not _is_another_format(out / PACK_FILE):
            return None
        raise
    held = {
        **settings_to_dict(info.settings),
        "manifest_sha256": info.manifest_sha256,
        "labels_digest": info.labels.digest,
        "dataset": info.dataset,
    }
    refuse_difference(out, held, {key: header[key] for key in held})  # versions may have moved on since
    return info


def _is_another_format(path: Path) -> bool:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(given, dict) and given.get("format", FORMAT) != FORMAT


def whole_shards(out: Path, info: PackInfo, progress: Progress | None, stop: StopRequest) -> frozenset[ShardInfo]:
    """Return the shards of a finished pack whose bytes are those that were written; each is read once.

    Args:
        out: The pack's folder.
        info: Its description.
        progress: Called with (clips in the shards read, clips in all).
        stop: Looked at before each shard.

    Raises:
        Interrupted: If a signal came.
    """
    whole, n_read = set(), 0
    for shard in info.shards:
        if stop.signal_number is not None:
            raise Interrupted(
                stop.signal_number,
                f"{out}: stopped by signal {stop.signal_number} while its checksums were compared; the pack is as it "
                "was",
            )
        if shard.is_whole(out):
            whole.add(shard)
        n_read += shard.clips
        if progress is not None:
            progress(n_read, info.counts.clips)
    return frozenset(whole)


def has_its_lists(out: Path, info: PackInfo) -> bool:
    """Whether a finished pack has lists of rejects and notes that hold what it counts, and a journal of its shards."""
    try:
        problem = problem_of_rejects(out, info.counts) or problem_of_notes(out, info.counts)
        entries = JournalRecords.read(out / JOURNAL_FILE).finished.values()
    except (DataError, OSError):
        return False
    n_clips, n_rejected = sum(entry.clips for entry in entries), sum(entry.rejected for entry in entries)
    shards = {entry.shard for entry in entries if entry.shard is not None}
    return problem is None and (n_clips, n_rejected, shards) == (
        info.counts.found,
        info.counts.rejected,
        {*info.shards},
    )


def rejects_to_retry(out: Path, header: dict[str, Any], parts: Iterable[tuple[int, list[Clip]]]) -> tuple[int, str]:
    """Return how many rejects of a finished pack are due for a retry, and the difference that forbids it.

    The journal is neither locked nor changed.

    Args:
        out: The pack's folder, which has its lists.
        header: What this run packs and how.
        parts: The clips of each part.
    """
    records = JournalRecords.read(out / JOURNAL_FILE)
    n_to_retry = sum(records.n_to_retry(number, part) for number, part in parts)
    try:
        difference = pack_difference(complete_settings(records.header), header) if n_to_retry else ""
    except (KeyError, TypeError):
        difference = "a journal of another program"
    return n_to_retry, difference
