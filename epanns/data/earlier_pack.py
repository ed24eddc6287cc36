"""The pack that an earlier run left: whether it is finished, and what of it is whole."""

import json
from pathlib import Path
from typing import Any

from epanns.csv_table import ANY_LENGTH, read_csv_table
from epanns.data.journal import refuse_difference
from epanns.data.pack_format import (
    FORMAT,
    JOURNAL_FILE,
    PACK_FILE,
    REJECTS_FILE,
    PackInfo,
    ShardInfo,
    read_pack_info,
    settings_to_dict,
)
from epanns.errors import DataError, Interrupted, PackError
from epanns.progress import Progress
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
    """Whether a finished pack has a journal and as many lines of rejects as it counts."""
    try:
        n_rejects = sum(1 for _ in read_csv_table(out / REJECTS_FILE, ANY_LENGTH)[1])
    except DataError:
        return False
    return (out / JOURNAL_FILE).is_file() and n_rejects == info.counts.rejected
