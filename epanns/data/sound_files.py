"""The sound files below a folder, found in one scan and always in the same order.

Paths are text: a `Path` for each of two million files would take minutes and gigabytes.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from epanns.audio.waveform import AUDIO_SUFFIXES
from epanns.errors import DataError


def files_below(root: Path) -> Iterator[tuple[str, bool]]:
    """Yield every file below a folder, sorted by name in each folder; nothing where there is no such folder.

    Folders behind symbolic links are entered like others, unless a link leads back to a folder that it lies in.

    Yields:
        The path relative to `root`, and whether a file is there: not where a link leads nowhere.

    Raises:
        DataError: If a folder cannot be listed.
    """
    if root.is_dir():
        yield from _files_in(str(root), "", frozenset())


def sounds_below(root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root`, of the sounds that are there."""
    return (path for path, is_there in files_below(root) if is_there and is_sound(path))


def is_sound(path: str) -> bool:
    """Whether a relative path is named like a sound and neither it nor a folder on its way is hidden.

    Hidden files of archives made on a Mac (``._dog.wav``) are no sounds, whatever they are called.
    """
    name = path[path.rfind("/") + 1 :]
    suffix = name[name.rfind(".") :]
    return suffix.lower() in AUDIO_SUFFIXES and path[0] != "." and "/." not in path


def stem_of(path: str) -> str:
    """Return the name of a file without its folder and its last suffix."""
    name = path[path.rfind("/") + 1 :]
    return name.rpartition(".")[0] or name


class SoundsByStem:
    """The sounds below a folder, found by name; re-encoded copies are found under the name in the data set's list.

    Attributes:
        root: The folder.
        n_files: Sounds in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.n_files = 0
        self._paths: dict[str, list[str]] = {}
        for path in sounds_below(root):
            self._paths.setdefault(stem_of(path), []).append(path)
            self.n_files += 1

    def find(self, filename: str, where: str, *, named: Collection[str] = ()) -> str | None:
        """Return the absolute path of the file of that name, or of that stem; None if there is neither.

        Args:
            filename: As the list has it.
            where: File and row of the list, for messages.
            named: File names that other rows have; a file called so is not taken for this one.

        Raises:
            DataError: If several files could be meant.
        """
        name = filename[filename.rfind("/") + 1 :]
        candidates = [(path[path.rfind("/") + 1 :], path) for path in self._paths.get(stem_of(name), ())]
        exact = [path for own, path in candidates if own == name]
        found = exact or [path for own, path in candidates if own not in named]
        if len(found) > 1:
            meant = " or ".join(f"{self.root}/{path}" for path in found)
            raise DataError(f"{where}: {filename} could be {meant}; keep one")
        return f"{self.root}/{found[0]}" if found else None


def _files_in(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    names: list[str] = []
    folders: set[str] = set()
    absent: set[str] = set()
    try:
        state = os.stat(folder)  # noqa: PTH116
        here = state.st_dev, state.st_ino
        if here in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if _is_folder(entry):
                    folders.add(entry.name)
                elif not _is_file(entry):
                    absent.add(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); make it readable or move it away") from error
    names.sort()
    for name in names:
        if name in folders:
            yield from _files_in(f"{folder}/{name}", f"{prefix}{name}/", above | {here})
        else:
            yield prefix + name, name not in absent


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or where one may not look
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
