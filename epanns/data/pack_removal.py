"""Starting over: an earlier pack is deleted, and nothing but a pack."""

import json
import re
from pathlib import Path

from epanns.data.journal import is_header, not_ours, pack_folder
from epanns.data.pack_format import FORMAT, JOURNAL_FILE, NOTES_FILE, PACK_FILE, REJECTS_FILE, SHARD_FILES
from epanns.data.panns_format import INDEX_FOLDER, WAVEFORM_FOLDER
from epanns.errors import OutputError

_FILES = re.compile(
    "("
    + "|".join(
        [re.escape(name) for name in (PACK_FILE, JOURNAL_FILE, REJECTS_FILE, NOTES_FILE)]
        + [pattern.pattern for pattern in SHARD_FILES.values()]
        + [rf"{INDEX_FOLDER}/[^/]+\.h5"]
    )
    + r")(\.partial)?"
)
_FOLDERS = {WAVEFORM_FOLDER, INDEX_FOLDER}


def remove_pack(folder: Path) -> None:
    """Delete an earlier pack, finished or not, so that packing starts over; a folder that is none is left alone.

    Raises:
        OutputError: If the journal is not ours, the folder holds anything but a pack, or another process works in it;
            nothing is deleted then.
    """
    path = folder / JOURNAL_FILE
    if not path.is_file() and not _is_finished(folder):
        return
    with pack_folder(folder).locked():
        if path.is_file():
            with path.open("rb") as journal:
                if not is_header(journal.readline()):
                    raise OutputError(not_ours(path))
        pack_folder(folder).start_over(_is_own, finished_by=PACK_FILE)  # half a pack must not look finished


def _is_finished(folder: Path) -> bool:
    """Whether there is a pack whose journal somebody deleted."""
    try:
        given = json.loads((folder / PACK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(given, dict) and given.get("format") == FORMAT


def _is_own(name: str) -> bool:
    return name.removesuffix("/") in _FOLDERS if name.endswith("/") else _FILES.fullmatch(name) is not None
