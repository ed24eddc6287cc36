"""PANNs' original packs as one list of clips: a waveform file, a folder of them, or an index file.

An index gives, for each of its rows, a name, classes, a waveform file and the row in it. It names waveform files by
paths of the machine on which it was made, of which only the last part is used: a file is searched in `waveforms` beside
the index's folder, where PANNs' scripts put it, and in the index's own folder. Rows that PANNs' packer left empty,
since it did not find the sound, are left out and counted; PANNs itself reads them as silence without a label.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.clip import LONGEST_CLIP_ID
from epanns.data.packs.any_pack import (
    ClipColumns,
    SparseTargets,
    labels_of_width,
    no_clips,
    refuse_wrong_ids,
    remark_on_classes,
)
from epanns.data.packs.pack_format import PACK_FILE, WAVEFORM_FOLDER, PackInfo
from epanns.data.packs.panns_file import INDEX_NAMES, PannsFile, PannsRows, clip_id_of, open_panns_file
from epanns.data.packs.safe_hdf5 import (
    ADVICE,
    MOST_ROWS,
    opened,
    pack_errors,
    plain_datasets,
    read_integers,
    read_repeated_strings,
    read_strings,
    read_targets,
    refusal,
    rows_of,
)
from epanns.errors import PackError
from epanns.labels import LabelSet

_LONGEST_PATH = 4096  # bytes, as in Linux
_MOST_FILES = 10_000
_FOLDERS_UP = 2  # above the index's folder, where `waveforms` is searched: PANNs keeps indexes of parts one deeper


@dataclass(frozen=True, eq=False)
class PannsIndex:
    """Rows, with the waveform files that they are in.

    Attributes:
        files: The waveform files, in the order in which the index first names them.
        rows: Names and classes.
        file_of: ``(rows,)`` int32, index into `files`.
        row_of: ``(rows,)`` int64, row of that file.
    """

    files: tuple[PannsFile, ...]
    rows: PannsRows
    file_of: NDArray[np.int32]
    row_of: NDArray[np.int64]


class PannsPack:
    """The clips of PANNs' files, by row.

    The format has no checksums: a damaged sample is not noticed, and `columns.crc32` is None. It does not store the
    length of a clip before its padding either: every clip has the length of its row.

    Attributes:
        path: The file or folder that was opened.
        files: Its waveform files.
        n_empty: Number of rows without a clip, which are left out.
        dataset, labels, sample_rate, clip_samples, digest, columns, knows_lengths, remarks: As in `AnyPack`.
    """

    knows_lengths = False

    def __init__(
        self, path: Path, index: PannsIndex, *, labels: LabelSet | None = None, info: PackInfo | None = None
    ) -> None:
        """Select the rows of an index that hold a clip; `info` is the content of a ``pack.json`` beside it.

        Raises:
            PackError: If files differ, no row holds a clip, a clip is repeated, or the classes are not known.
        """
        self.path, self.files = path, index.files
        first = index.files[0]
        _refuse_unlike(index.files)
        self.sample_rate, self.clip_samples = first.sample_rate, first.clip_samples
        self.labels = labels_of_width(first.num_classes, info.labels if info else labels, path)
        self.dataset = info.dataset if info else path.stem
        kept = np.flatnonzero(index.rows.names != b"")
        if not len(kept):
            raise refusal(path, "audio_name", "is empty in every row: no sound was packed", ADVICE)
        self.n_empty = len(index.rows.names) - len(kept)
        self._file_of, self._row_of = index.file_of[kept], index.row_of[kept]
        refuse_wrong_ids(index.rows.names[kept], path)
        clip_ids = np.array([clip_id_of(name.decode()).encode() for name in index.rows.names[kept].tolist()])
        n_samples = np.full(len(kept), self.clip_samples, np.int32)
        self.columns = ClipColumns.joined([ClipColumns(clip_ids, n_samples, index.rows.targets.take(kept), None)], path)
        if info:
            self.digest = atomic.sha256_of(path / PACK_FILE)
        else:
            sizes = [file.stamp.size for file in self.files]
            content = [self.columns.digest, self.sample_rate, self.labels.digest, sizes]
            self.digest = atomic.sha256_of_json(content)
        remarks = []
        if info is None:
            remarks.append(f"{path}: has no checksums, as PANNs made it: a damaged sample cannot be detected")
        if self.n_empty:
            held = "row holds" if self.n_empty == 1 else "rows hold"
            remarks.append(
                f"{path}: {self.n_empty:,} {held} nothing, the sound was missing when it was packed: left out"
            )
        if info is None and labels is None:
            remarks.append(remark_on_classes(len(self.labels), path))
        self.remarks = tuple(remarks)

    def __len__(self) -> int:
        return len(self._row_of)

    def read_into(self, index: int, out: NDArray[np.int16]) -> int:
        """Read a clip as `AnyPack.read_into` does; its number of samples is always `clip_samples`."""
        try:
            self.files[self._file_of[index]].read_into(int(self._row_of[index]), out)
        except PackError as error:
            raise PackError(f"clip {self.columns.clip_ids[index].decode()!r}: {error}") from error
        return self.clip_samples

    def close(self) -> None:
        """Close the files that this process holds open."""
        for file in self.files:
            file.close()


def open_panns_files(path: Path, files: Sequence[Path], *, labels: LabelSet | None = None) -> PannsPack:
    """Open waveform files, in the given order, as one pack whose path is `path`."""
    return PannsPack(path, _index_of([open_panns_file(file) for file in files]), labels=labels)


def open_described_panns_pack(path: Path, info: PackInfo) -> PannsPack:
    """Open a pack that `epanns pack` made in PANNs' format, whose ``pack.json`` names classes and files."""
    if not info.shards:
        raise no_clips(path)
    found = [open_panns_file(path / shard.file) for shard in info.shards]
    for (file, _), shard in zip(found, info.shards, strict=True):
        there = (file.rows, file.clip_samples, file.sample_rate, file.num_classes)
        asked = (shard.clips, info.clip_samples, info.sample_rate, len(info.labels))
        if there != asked:
            raise refusal(file.path, "file", f"has (rows, samples, rate, classes) {there}, {PACK_FILE} has {asked}")
    return PannsPack(path, _index_of(found), info=info)


def _index_of(found: Sequence[tuple[PannsFile, PannsRows]]) -> PannsIndex:
    """Return the index of all rows of files."""
    files, rows = [file for file, _ in found], [rows for _, rows in found]
    counts = [file.rows for file in files]
    if sum(counts) > MOST_ROWS:
        raise PackError(f"{files[0].path.parent}: holds more than {MOST_ROWS} rows; name its files one by one")
    return PannsIndex(
        tuple(files),
        PannsRows(
            np.concatenate([part.names for part in rows]),
            SparseTargets.concatenate([part.targets for part in rows]),
        ),
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.concatenate([np.arange(count) for count in counts]),
    )


def _refuse_unlike(files: Sequence[PannsFile]) -> None:
    for other in files[1:]:
        names = {"sample_rate": "sample_rate", "clip_samples": "clip_samples", "classes": "num_classes"}
        for what, field in names.items():
            ours, theirs = getattr(files[0], field), getattr(other, field)
            if ours != theirs:
                raise PackError(f"{files[0].path} and {other.path} differ: {what} {ours} and {theirs}; open them apart")


def open_panns_index(path: Path) -> PannsIndex:
    """Read an index, and check the waveform files that it names.

    Raises:
        PackError: If it is not as PANNs' script writes it, a waveform file is missing or found twice, or the rows of
            the index differ from those of the files.
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
    """Return the paths of the waveform files that an index names."""
    base_names = [os.fsdecode(name).replace("\\", "/").rpartition("/")[2] for name in named]
    if len(set(base_names)) < len(base_names):
        twice = next(name for name in base_names if base_names.count(name) > 1)
        raise refusal(
            index,
            "hdf5_path",
            f"names two files {twice!r} in different folders, of which only the last part is used",
            ADVICE,
        )
    by_folder: list[dict[str, list[Path]]] = []
    for folder in index.absolute().parents[1 : 1 + _FOLDERS_UP]:
        by_folder.append({})
        for root, _, names in os.walk(folder / WAVEFORM_FOLDER):
            for name in names:
                by_folder[-1].setdefault(name, []).append(Path(root, name))
    beside = [file for file in index.parent.iterdir() if file.is_file() and not file.samefile(index)]
    by_folder.append({file.name: [file] for file in beside})
    places = []
    for name in base_names:
        found = sorted(next((files[name] for files in by_folder if name in files), []))
        if len(found) > 1:
            both = f"{found[0]} and {found[1]}"
            raise PackError(f"{index}: names the waveform file {name!r}, which could be {both}; remove one")
        if not found:
            raise PackError(
                f"{index}: names the waveform file {name!r}, which is neither in {WAVEFORM_FOLDER!r} beside the "
                "index's folder nor in that folder; copy it there"
            )
        places += found
    return places


def _refuse_disagreement(index: PannsIndex, there: Sequence[PannsRows], path: Path) -> None:
    """Raise unless every row of the index has the name and the classes of the row that it refers to."""
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
