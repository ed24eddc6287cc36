"""Starting over: an earlier pack is deleted, and nothing but a pack."""

import json
import re
from pathlib import Path

from epanns.data.journal import is_header, lock, not_ours
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

    An empty journal stays behind: another process that has it open must meet the same lock, not a deleted file's.

    Raises:
        OutputError: If the journal is not ours, the folder holds anything but a pack, or another process writes it;
            nothing is deleted then.
    """
    path = folder / JOURNAL_FILE
    if not path.is_file() and not _is_finished(folder):
        return
    _refuse_foreign(folder)
    with path.open("a+b") as journal:
        lock(journal, folder)
        journal.seek(0)
        if not is_header(journal.readline()):
            raise OutputError(not_ours(path))
        (folder / PACK_FILE).unlink(missing_ok=True)  # before the shards: half a pack must not look finished
        for file in _files_of(folder):
            if file != path and not file.is_dir():
                file.unlink()
        for name in _FOLDERS:
            if (folder / name).is_dir():
                (folder / name).rmdir()
        journal.truncate(0)


def _is_finished(folder: Path) -> bool:
    """Whether there is a pack whose journal somebody deleted."""
    try:
        given = json.loads((folder / PACK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(given, dict) and given.get("format") == FORMAT


def _refuse_foreign(folder: Path) -> None:
    for file in _files_of(folder):
        name = file.relative_to(folder).as_posix()
        if not _is_ours(file, name):
            raise OutputError(
                f"{folder} holds {name!r}, which is no part of a pack, so --fresh deletes nothing: move it away "
                "or choose another --out"
            )


def _is_ours(file: Path, name: str) -> bool:
    if file.is_dir():
        return name in _FOLDERS and not file.is_symlink()
    return file.is_file() and _FILES.fullmatch(name) is not None


def _files_of(folder: Path) -> list[Path]:
    """Return what lies in a folder and in the folders that a pack may have, in order."""
    inner = [folder / name for name in sorted(_FOLDERS) if (folder / name).is_dir()]
    return sorted(path for place in (folder, *inner) for path in place.iterdir())
