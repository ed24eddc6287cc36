"""Find the audio files below a folder, in one scan and always in the same order.

Paths are text: a `Path` for each of two million files would take minutes and gigabytes.
"""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from epanns.audio.waveform import AUDIO_SUFFIXES
from epanns.errors import DataError


def files_below(root: Path) -> Iterator[tuple[str, bool]]:
    """Yield every file below a folder, sorted by name in each folder; nothing if the folder does not exist.

    Symbolic links to folders are followed, except a link to a folder that contains it.

    Yields:
        The path relative to `root`, and whether the file exists: False for a broken link.

    Raises:
        DataError: If a folder cannot be listed.
    """
    if root.is_dir():
        yield from _files_in(str(root), "", frozenset())


def sounds_below(root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root`, of the audio files that exist."""
    return (path for path, is_there in files_below(root) if is_there and is_sound(path))


def folders_holding(root: Path, *files: str) -> list[Path]:
    """Return the folder itself if it holds some files, or else its subfolders, at most two levels below, that do."""
    for pattern in ("", "*/", "*/*/"):
        folders = sorted(path.parents[files[0].count("/")] for path in root.glob(pattern + files[0]))
        found = [folder for folder in folders if all((folder / file).exists() for file in files)]
        if found:
            return found
    return []


def is_sound(path: str) -> bool:
    """Whether a relative path has the suffix of an audio file and no hidden part.

    Hidden files of archives made on a Mac (``._dog.wav``) are not audio.
    """
    name = path[path.rfind("/") + 1 :]
    suffix = name[name.rfind(".") :]
    return suffix.lower() in AUDIO_SUFFIXES and path[0] != "." and "/." not in path


def stem_of(path: str) -> str:
    """Return the name of a file without its folder and its last suffix."""
    name = path[path.rfind("/") + 1 :]
    return name.rpartition(".")[0] or name


class SoundsByStem:
    """The audio files below a folder by name without suffix, so that re-encoded copies are found.

    Attributes:
        root: The folder.
        n_files: Number of audio files in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.n_files = 0
        self._paths: dict[str, list[str]] = {}
        for path in sounds_below(root):
            self._paths.setdefault(stem_of(path), []).append(path)
            self.n_files += 1

    def find(self, filename: str, where: str, *, named: Collection[str] = (), folder: str = "") -> str | None:
        """Return the absolute path of the file with a name, or else with its stem; None if there is neither.

        Args:
            filename: Name in the data set's list.
            where: File and row of the list, for messages.
            named: File names of all rows; a file with the name of another row is not used for this row.
            folder: Folder below the root where the file should be; files elsewhere are used if none is in it.

        Raises:
            DataError: If several files match.
        """
        name = filename[filename.rfind("/") + 1 :]
        paths = self._paths.get(stem_of(name), [])
        paths = [path for path in paths if path.rpartition("/")[0] == folder] or paths
        candidates = [(path[path.rfind("/") + 1 :], path) for path in paths]
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
                if _holds(entry.is_dir):
                    folders.add(entry.name)
                elif not _holds(entry.is_file):
                    absent.add(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); make it readable or move it away") from error
    names.sort()
    for name in names:
        if name in folders:
            yield from _files_in(f"{folder}/{name}", f"{prefix}{name}/", above | {here})
        else:
            yield prefix + name, name not in absent


def _holds(test: Callable[[], bool]) -> bool:
    """Return the result of a test of a file; False if it raises, as for a circular link."""
    try:
        return test()
    except OSError:
        return False
