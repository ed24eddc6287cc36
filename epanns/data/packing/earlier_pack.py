"""The pack that an earlier run left: whether it is finished and whole, and its deletion for ``--fresh``."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from epanns.data.clip import Clip
from epanns.data.packing.packing_journal import (
    JournalRecords,
    header_difference,
    pack_folder,
    refuse_difference,
    require_journal,
)
from epanns.data.packs.pack_format import (
    FORMAT,
    INDEX_FOLDER,
    JOURNAL_FILE,
    LARGEST_PACK_FILE,
    NOTES_FILE,
    PACK_FILE,
    REJECTS_FILE,
    SHARD_FILES,
    WAVEFORM_FOLDER,
    PackInfo,
    ShardInfo,
    problem_of_list,
    read_pack_info,
)
from epanns.errors import DataError, Interrupted, PackError
from epanns.feedback import Progress
from epanns.process import StopRequest
from epanns.text_files import read_json

_OWN_FILES = re.compile(
    "("
    + "|".join(
        [re.escape(name) for name in (PACK_FILE, JOURNAL_FILE, REJECTS_FILE, NOTES_FILE)]
        + [pattern.pattern for pattern in SHARD_FILES.values()]
        + [rf"{INDEX_FOLDER}/[^/]+\.h5"]
    )
    + r")(\.partial)?"
)
_OWN_FOLDERS = {f"{WAVEFORM_FOLDER}/", f"{INDEX_FOLDER}/"}


def finished_pack(out: Path, header: dict[str, Any]) -> PackInfo | None:
    """Return the description of a finished pack of the same manifest and settings, or None.

    A damaged ``pack.json`` beside a journal counts as not yet written.

    Raises:
        OutputError: If the pack was made from another manifest or with other settings.
        PackError: If ``pack.json`` has another format, or is damaged and there is no journal.
    """
    if not (out / PACK_FILE).is_file():
        return None
    try:
        info = read_pack_info(out)
    except PackError:
        if (out / JOURNAL_FILE).is_file() and _format_of(out / PACK_FILE) in (FORMAT, None):
            return None
        raise
    found = {
        **info.settings.to_dict(),
        "manifest_sha256": info.manifest_sha256,
        "labels_digest": info.labels.digest,
        "dataset": info.dataset,
    }
    # Without the versions: a finished pack stays valid when packages are updated.
    refuse_difference(out, found, {key: header[key] for key in found}, out / PACK_FILE)
    return info


def _format_of(path: Path) -> object:
    """Return the format that a JSON file states; None if it is damaged or states none."""
    try:
        given = read_json(path, error=DataError, limit=LARGEST_PACK_FILE)
    except DataError:
        return None
    return given.get("format") if isinstance(given, dict) else None


def whole_shards(out: Path, info: PackInfo, progress: Progress | None, stop: StopRequest) -> frozenset[ShardInfo]:
    """Return the shards of a finished pack whose bytes are unchanged; each is read once.

    Raises:
        Interrupted: If a signal was received before a shard was read.
    """
    whole, n_read = set(), 0
    for shard in info.shards:
        if stop.signal_number is not None:
            raise Interrupted(
                stop.signal_number,
                f"{out}: stopped by signal {stop.signal_number} while its checksums were compared; the pack is "
                "unchanged",
            )
        if shard.is_whole(out):
            whole.add(shard)
        n_read += shard.clips
        if progress is not None:
            progress(n_read, info.counts.clips)
    return frozenset(whole)


def has_its_lists(out: Path, info: PackInfo) -> bool:
    """Whether the lists of rejects and notes and the journal of a finished pack agree with its counts and shards."""
    try:
        entries = JournalRecords.read(out / JOURNAL_FILE).finished.values()
    except OSError:
        return False
    if any(problem_of_list(out, name, info.counts) for name in (REJECTS_FILE, NOTES_FILE)):
        return False
    n_clips, n_rejected = sum(entry.clips for entry in entries), sum(entry.rejected for entry in entries)
    shards = {entry.shard for entry in entries if entry.shard is not None}
    expected = (info.counts.found, info.counts.rejected, {*info.shards})
    return (n_clips, n_rejected, shards) == expected


def rejects_to_retry(out: Path, header: dict[str, Any], parts: Iterable[tuple[int, list[Clip]]]) -> tuple[int, str]:
    """Return the number of rejects of a finished pack that are due for a retry, and the difference that forbids it.

    The journal is neither locked nor changed.
    """
    records = JournalRecords.read(out / JOURNAL_FILE)
    n_to_retry = sum(records.n_to_retry(number, part) for number, part in parts)
    if not n_to_retry:
        return 0, ""
    if not isinstance(records.header, dict):
        return n_to_retry, "a journal of another program"
    return n_to_retry, header_difference(records.header, header)


def remove_pack(folder: Path) -> None:
    """Delete an earlier pack, finished or not; a folder that holds no pack is left alone.

    Raises:
        OutputError: If the journal is not one of epanns, the folder holds other files, or another process works in it;
            nothing is deleted then.
    """
    path = folder / JOURNAL_FILE
    if not path.is_file() and _format_of(folder / PACK_FILE) != FORMAT:
        return
    with pack_folder(folder).locked():
        if path.is_file():
            require_journal(path)
        # pack.json first, so that half a pack does not look finished
        pack_folder(folder).start_over(
            lambda name: name in _OWN_FOLDERS or _OWN_FILES.fullmatch(name) is not None, finished_by=PACK_FILE
        )
