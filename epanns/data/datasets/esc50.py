"""Read ESC-50, ESC-10 and other data sets in one of their layouts into a manifest.

Source: Piczak, "ESC: Dataset for Environmental Sound Classification", 2015. Two layouts are read:

- ESC-50: ``meta/esc50.csv`` (``filename,fold,target,category,...``) and ``audio/``;
- ESC-10 as first published: ``001 - Dog bark/1-100032-A.ogg``, where the file's first number is its fold.

Neither the classes nor the number of folds or clips is fixed.
"""

import re
from dataclasses import replace
from pathlib import Path

from epanns.data.clip import Clip
from epanns.data.datasets.folds import FoldColumns, read_fold_table, with_fold_splits
from epanns.data.datasets.sound_files import SoundsByStem, files_below, is_sound
from epanns.data.datasets.urbansound8k import advice_on_urbansound8k
from epanns.data.manifest import Manifest
from epanns.errors import DataError
from epanns.labels import LabelSet, composed

_CLASS_FOLDER = re.compile(r"([0-9]{1,9}) - (\S.*)")
_FOLD_FILE = re.compile(r"([0-9]{1,9})-.+")
_COLUMNS = FoldColumns(filename="filename", fold="fold", category="category", number="target")


def read_esc50(
    root: Path, *, name: str | None = None, val_fold: int | None = None, test_fold: int | None = None
) -> Manifest:
    """Read a data set in ESC-50's or ESC-10's layout.

    Args:
        root: The data set's folder.
        name: Name of the data set in results; default: the folder's name.
        val_fold: Fold that becomes the split ``val``.
        test_fold: Fold that becomes the split ``test``. With neither, each fold is a split: ``fold1``, ``fold2``, ...

    Raises:
        DataError: If `root` has neither layout, or a row is invalid.
        ConfigError: If a fold does not exist.
    """
    root = root.resolve()
    if advice := advice_on_urbansound8k(root):
        raise DataError(f"{root}: {advice}")
    manifest = _read_csv_layout(root) if (root / "meta").is_dir() else _read_folder_layout(root)
    return replace(with_fold_splits(manifest, val_fold, test_fold), dataset=name or root.name)


def _read_csv_layout(root: Path) -> Manifest:
    listed, labels, _ = read_fold_table(root / "meta", "esc50.csv", _COLUMNS, "ESC-50's")
    sounds = SoundsByStem(root / "audio")
    named = {row.filename for row in listed}
    clips: list[Clip] = []
    missing: list[Clip] = []
    for row in listed:
        path = sounds.find(row.filename, row.where, named=named)
        place = path or f"{root}/audio/{row.filename}"
        clip = Clip(row.filename, place, (row.category,), f"fold{row.fold}", fold=row.fold)
        (clips if path else missing).append(clip)
    n_ignored = sounds.n_files - len({clip.path for clip in clips})
    return Manifest(root.name, labels, tuple(clips), tuple(missing), n_ignored)


def _read_folder_layout(root: Path) -> Manifest:
    numbered: dict[int, tuple[Path, str]] = {}
    for path in sorted(root.iterdir() if root.is_dir() else []):
        match = _CLASS_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            other, _ = numbered.setdefault(int(match[1]), (path, composed(match[2])))
            if other != path:
                raise DataError(f"{root}: {other.name!r} and {path.name!r} have the same number; give each its own")
    if not numbered:
        raise DataError(
            f"{root}: neither ESC-50's layout (meta/esc50.csv and audio/) nor ESC-10's (folders like "
            "'001 - Dog bark'); for one folder per class without folds use `epanns data folder`"
        )
    categories = {path.name: category for _, (path, category) in sorted(numbered.items())}
    clips: list[Clip] = []
    missing: list[Clip] = []
    n_ignored = 0
    for file, is_there in files_below(root):
        folder, _, name = file.partition("/")
        if folder not in categories or "/" in name or not is_sound(file):
            n_ignored += folder in categories or is_sound(file)
            continue
        match = _FOLD_FILE.fullmatch(name)
        if not match:
            raise DataError(f"{root}/{file}: the name must begin with the fold's number, as in 1-100032-A.ogg")
        fold = int(match[1])
        clip = Clip(file, f"{root}/{file}", (categories[folder],), f"fold{fold}", fold=fold)
        (clips if is_there else missing).append(clip)
    return Manifest(root.name, LabelSet.of(list(categories.values())), tuple(clips), tuple(missing), n_ignored)
