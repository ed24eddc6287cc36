"""An index file of PANNs: for each row a name, its classes, a waveform file and the row in it.

The waveform file is named by a path of the machine on which the index was made. Only its last part is used: the file
is looked for where PANNs' scripts put it, in `waveforms` beside the index's folder, or in the index's own folder.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns.data.clip import LONGEST_CLIP_ID
from epanns.data.foreign_columns import (
    ADVICE,
    read_integers,
    read_repeated_strings,
    read_strings,
    read_targets,
    rows_of,
)
from epanns.data.panns_file import PannsFile, PannsRows, open_panns_file
from epanns.data.panns_format import INDEX_NAMES, WAVEFORM_FOLDER
from epanns.data.plain_hdf5 import opened, pack_errors, plain_datasets, refusal
from epanns.errors import PackError

_LONGEST_PATH = 4096  # bytes, as Linux has it
_MOST_FILES = 10_000
_HOW_FAR_UP = 2  # folders above the index's in which `waveforms` may be: PANNs keeps indexes of parts one deeper


@dataclass(frozen=True, eq=False)
class PannsIndex:
    """Rows, with the waveform files they are in.

    Attributes:
        files: The waveform files, in the order in which the index first names them.
        rows: Names and classes.
        file_of: ``(rows,)`` int32, which of `files`.
        row_of: ``(rows,)`` int64, which row of it.
    """

    files: tuple[PannsFile, ...]
    rows: PannsRows
    file_of: NDArray[np.int32]
    row_of: NDArray[np.int64]


def open_panns_index(path: Path) -> PannsIndex:
    """Read an index, and check the waveform files it names.

    Raises:
        PackError: If it is not as PANNs' script writes it, a waveform file cannot be found or is found twice, or the
            two say different things.
    """
    with opened(path, ADVICE) as file:
        datasets = plain_datasets(file, path, INDEX_NAMES, advice=ADVICE)
        with pack_errors(path, "file", ADVICE):
            rows = rows_of(datasets["audio_name"], path)
            names = read_strings(datasets["audio_name"], path, rows, longest=LONGEST_CLIP_ID)
            targets = read_targets(datasets["target"], path, rows)
            paths, file_of = read_repeated_strings(
                datasets["hdf5_path"], path, rows, longest=_LONGEST_PATH, most=_MOST_FILES
            )
            row_of = read_integers(datasets["index_in_hdf5"], path, rows)
    opened_files = [open_panns_file(place) for place in _places_of(path, paths)]
    index = PannsIndex(tuple(file for file, _ in opened_files), PannsRows(names, targets), file_of, row_of)
    _refuse_disagreement(index, [rows_there for _, rows_there in opened_files], path)
    return index


def _places_of(index: Path, named: list[bytes]) -> list[Path]:
    """Return where the waveform files are that an index names."""
    base_names = [os.fsdecode(name).replace("\\", "/").rpartition("/")[2] for name in named]
    if len(set(base_names)) < len(base_names):
        twice = next(name for name in base_names if base_names.count(name) > 1)
        raise refusal(index, "hdf5_path", f"names two files {twice!r}, which their names do not tell apart", ADVICE)
    folders = [folder / WAVEFORM_FOLDER for folder in index.absolute().parents[1 : 1 + _HOW_FAR_UP]]
    by_folder: list[Mapping[str, list[Path]]] = [
        *(_files_below(folder) for folder in folders),
        {file.name: [file] for file in index.parent.iterdir() if file.is_file() and not file.samefile(index)},
    ]
    return [_place_of(name, index, by_folder) for name in base_names]


def _files_below(folder: Path) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            found.setdefault(name, []).append(Path(root, name))
    return found


def _place_of(name: str, index: Path, by_folder: list[Mapping[str, list[Path]]]) -> Path:
    found = next((files[name] for files in by_folder if name in files), [])
    if len(found) == 1:
        return found[0]
    if found:
        places = " and ".join(map(str, sorted(found)[:2]))
        raise PackError(f"{index}: names the waveform file {name!r}, which could be {places}; remove one")
    raise PackError(
        f"{index}: names the waveform file {name!r}, which is neither in {WAVEFORM_FOLDER!r} beside the index's folder "
        "nor in that folder; copy it there"
    )


def _refuse_disagreement(index: PannsIndex, there: Sequence[PannsRows], path: Path) -> None:
    """Raise unless every row of the index is the row it names: the same name, the same classes."""
    by_file = np.argsort(index.file_of, kind="stable")
    ends = np.cumsum(np.bincount(index.file_of, minlength=len(index.files)))
    for file, rows, ours in zip(index.files, there, np.split(by_file, ends[:-1]), strict=True):
        theirs = index.row_of[ours]
        if theirs.min() < 0 or theirs.max() >= file.rows:
            raise refusal(path, "index_in_hdf5", f"names rows beyond the {file.rows} of {file.path}", ADVICE)
        different = np.flatnonzero(index.rows.names[ours] != rows.names[theirs])
        if len(different):
            place = different[0]
            here = index.rows.names[ours[place]].decode(errors="replace")
            named = rows.names[theirs[place]].decode(errors="replace")
            detail = f"is {here!r}, the row it names in {file.path} is {named!r}"
            raise refusal(path, f"row {ours[place]}", detail, ADVICE)
        if not index.rows.targets.take(ours).equals(rows.targets.take(theirs)):
            raise refusal(path, "target", f"differs from that of {file.path}", ADVICE)
