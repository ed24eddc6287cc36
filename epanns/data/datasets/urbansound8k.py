"""Read UrbanSound8K and other data sets in its layout into a manifest.

Slices of recordings are in ``audio/fold1`` to ``audio/fold10``, named ``<fsID>-<classID>-<occurrence>-<slice>.wav``.
``metadata/UrbanSound8K.csv`` lists them (``slice_file_name,fsID,start,end,salience,fold,classID,class``). With this
table, neither the classes nor the number of folds or slices is fixed. Without it, the folders are the folds, and the
names hold the numbers of the ten published classes.

Source: Salamon, Jacoby and Bello, "A Dataset and Taxonomy for Urban Sound Research", 2014.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from epanns.data.clip import Clip
from epanns.data.datasets.folds import FoldColumns, ListedClip, read_fold_table, with_fold_splits
from epanns.data.datasets.sound_files import SoundsByStem, files_below, is_sound, stem_of
from epanns.data.datasets.splits import notes_on_groups
from epanns.data.manifest import Manifest
from epanns.errors import DataError
from epanns.labels import LabelSet

CLASSES = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)
PUBLISHED = 8_732
"""Slices of the data set as published."""

_TABLE = "UrbanSound8K.csv"
_COLUMNS = FoldColumns("slice_file_name", "fold", "class", "classID", recording="fsID")
_FOLD_FOLDER = re.compile(r"fold([0-9]{1,9})")
_SLICE = re.compile(r"([0-9]+)-([0-9]{1,9})-[0-9]+-[0-9]+")


def read_urbansound8k(
    root: Path, *, name: str | None = None, val_fold: int | None = None, test_fold: int | None = None
) -> Manifest:
    """Read a data set in UrbanSound8K's layout. Each fold is a split: ``fold1``, ``fold2``, ...

    Where the table, a file's name and its folder contradict each other, the table is used; a note has the number of
    such files and the first of them. Clip ids are the file names, in which ``^([0-9]+)-`` finds the recordings.

    Args:
        root: The data set's folder, or the folder above it.
        name: Name of the data set in results; default: the folder's name.
        val_fold: Fold that becomes the split ``val``.
        test_fold: Fold that becomes the split ``test``; the other folds are ``train``.

    Raises:
        DataError: If `root` does not have the layout, or a row is invalid.
        ConfigError: If a fold does not exist.
    """
    folder = find_urbansound8k(root.resolve())
    if folder is None:
        raise DataError(
            f"{root}: not UrbanSound8K's layout: neither metadata/{_TABLE} nor a folder audio/fold1 is in it or in "
            "UrbanSound8K/ below it; name the folder that holds audio/ and metadata/"
        )
    has_table = any(not path.name.startswith(".") for path in folder.glob("metadata/*.csv"))
    manifest = _read_with_table(folder) if has_table else _read_without_table(folder)
    if manifest.labels.names == CLASSES and len(manifest.clips) + len(manifest.missing) != PUBLISHED:
        listed = len(manifest.clips) + len(manifest.missing)
        note = f"slices: {listed}; UrbanSound8K as published has {PUBLISHED}"
        manifest = replace(manifest, notes=(*manifest.notes, note))
    return replace(with_fold_splits(manifest, val_fold, test_fold), dataset=name or folder.name)


def advice_on_urbansound8k(root: Path) -> str:
    """Return how to read a folder with UrbanSound8K's table; empty for any other folder."""
    folder = find_urbansound8k(root)
    if folder is None or not (folder / "metadata" / _TABLE).is_file():
        return ""
    return f"UrbanSound8K's layout (metadata/{_TABLE} and audio/fold1, ...): read it with `epanns data urbansound8k`"


def find_urbansound8k(root: Path) -> Path | None:
    """Return the folder that holds ``audio/``, given it, its ``audio`` or the folder above it; None if none does."""
    for folder in (root, root / "UrbanSound8K", *([root.parent] if root.name == "audio" else [])):
        if (folder / "metadata" / _TABLE).is_file() or any((folder / "audio").glob("fold[0-9]*/")):
            return folder
    return None


def _read_with_table(root: Path) -> Manifest:
    listed, labels, table = read_fold_table(root / "metadata", _TABLE, _COLUMNS, "UrbanSound8K's")
    sounds = SoundsByStem(root / "audio")
    named = {row.filename for row in listed}
    clips: list[Clip] = []
    missing: list[Clip] = []
    for row in listed:
        folder = f"fold{row.fold}"
        path = sounds.find(row.filename, row.where, named=named, folder=folder)
        place = path or f"{root}/audio/{folder}/{row.filename}"
        clip = Clip(row.filename, place, (row.category,), folder, fold=row.fold)
        (clips if path else missing).append(clip)
    n_ignored = sounds.n_files - len({clip.path for clip in clips})
    manifest = Manifest(root.name, labels, tuple(clips), tuple(missing), n_ignored)
    matches = {row.filename: _SLICE.fullmatch(stem_of(row.filename)) for row in listed}
    recordings = {name: match[1] for name, match in matches.items() if match}
    recordings |= {row.filename: row.recording for row in listed if row.recording}
    notes = (*_contradictions(listed, clips, table.name), *notes_on_groups(manifest, recordings, "recording"))
    return replace(manifest, notes=notes)


def _contradictions(listed: Sequence[ListedClip], clips: Sequence[Clip], table: str) -> list[str]:
    """Return one note for each kind of contradiction between the table, the names and the folders."""
    misplaced: list[str] = []
    of_class: list[str] = []
    of_recording: list[str] = []
    classes: dict[int, set[str]] = {}
    nameless: list[str] = []
    for clip in clips:
        match = _FOLD_FOLDER.fullmatch(Path(clip.path).parent.name)
        if match and int(match[1]) != clip.fold:
            misplaced.append(f"{clip.clip_id} in {match[0]}, listed in fold{clip.fold}")
    for row in listed:
        if row.number is not None:
            classes.setdefault(row.number, set()).add(row.category)
        match = _SLICE.fullmatch(stem_of(row.filename))
        if not match:
            nameless.append(row.filename)
            continue
        if row.number is not None and int(match[2]) != row.number:
            of_class.append(f"{row.filename}, listed with classID {row.number}")
        if row.recording and match[1] != row.recording:
            of_recording.append(f"{row.filename}, listed with fsID {row.recording}")
    shared = [f"{number} of {' and '.join(sorted(names))}" for number, names in classes.items() if len(names) > 1]
    kinds = {
        "values of classID belong to several classes": shared,
        f"files are in the folder of another fold than {table} lists, which is used": misplaced,
        f"names have another class than {table} lists, which is used": of_class,
        f"names have another recording than {table} lists, which is used": of_recording,
        "names are not <fsID>-<classID>-<occurrence>-<slice>": nameless,
    }
    return [f"{len(found)} {kind}, first {found[0]}" for kind, found in kinds.items() if found]


def _read_without_table(root: Path) -> Manifest:
    clips: list[Clip] = []
    missing: list[Clip] = []
    n_ignored = 0
    for file, is_there in files_below(root / "audio"):
        folder, _, name = file.partition("/")
        in_fold, match = _FOLD_FOLDER.fullmatch(folder), _SLICE.fullmatch(stem_of(name))
        if not is_sound(file) or not in_fold or not match:
            n_ignored += is_sound(file)
            continue
        number = int(match[2])
        if number >= len(CLASSES):
            raise DataError(
                f"{root}/audio/{file}: class {number} in the name must be one of UrbanSound8K's, 0 to "
                f"{len(CLASSES) - 1}; list other classes in metadata/{_TABLE}"
            )
        fold = int(in_fold[1])
        clip = Clip(name, f"{root}/audio/{file}", (CLASSES[number],), f"fold{fold}", fold=fold)
        (clips if is_there else missing).append(clip)
    if not clips and not missing:
        raise DataError(
            f"{root}/audio: no file such as fold1/100032-3-0-0.wav; without metadata/{_TABLE}, names must be "
            "<fsID>-<classID>-<occurrence>-<slice>.wav"
        )
    manifest = Manifest(root.name, LabelSet.of(CLASSES), tuple(clips), tuple(missing), n_ignored)
    recordings = {clip.clip_id: clip.clip_id.partition("-")[0] for clip in (*clips, *missing)}
    note = f"no metadata/{_TABLE}: folds are those of the folders, classes those of the file names"
    return replace(manifest, notes=(note, *notes_on_groups(manifest, recordings, "recording")))
