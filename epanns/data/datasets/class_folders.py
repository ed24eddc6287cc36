"""Read the user's own recordings into a manifest: one folder per class, or a CSV file of paths and labels."""

import re
from dataclasses import replace
from pathlib import Path

from epanns.data.clip import Clip
from epanns.data.datasets.clip_table import TableForm, read_table
from epanns.data.datasets.folds import with_fold_splits
from epanns.data.datasets.sound_files import files_below, is_sound
from epanns.data.datasets.splits import UNSPLIT, SplitSettings, draw_splits
from epanns.data.datasets.urbansound8k import advice_on_urbansound8k
from epanns.data.manifest import Manifest, without_manifests
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet, composed, in_label_order, names_read_alike

_SPLIT_FOLDERS = {  # name of a folder in lower case -> the split it holds
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_CSV_FORM = "write a CSV with the columns path, labels and fold or split, and give it to `epanns data folder FILE.csv`"
_LISTS_OF_WORDS = ("validation_list.txt", "testing_list.txt")  # of Speech Commands
_FOLD = re.compile(r"(folds?|k?fold|cv|split|part|f)[\W_]*([0-9]{1,3})", re.IGNORECASE)
_SPLIT = re.compile(
    rf"(\w+\.)?(audio_)?({'|'.join(_SPLIT_FOLDERS)})[\W_]*(audio|set|data|clips?|files?|wavs?|sounds?|split|curated|noisy)?"
    r"[\W_]*[0-9]*",
    re.IGNORECASE,
)
_STORE = re.compile(r"(audio|wave?|mp3|flac|ogg|sound|clip|recording|data)[\W_]*(files?|clips?|data)?s?", re.IGNORECASE)
_FSD50K = re.compile(r"(FSD50K\.)?(dev|eval)_audio", re.IGNORECASE)
_AUDIOSET = re.compile(r"((un)?balanced_train|eval)(_segments|_audio|_wavs?)*(_part[0-9]+)?", re.IGNORECASE)


def read_folder(
    root: Path,
    *,
    name: str | None = None,
    drawn: SplitSettings | None = None,
    form: TableForm | None = None,
    val_fold: int | None = None,
    test_fold: int | None = None,
) -> Manifest:
    """Read class folders, or a CSV file.

    Folders: ``ROOT/CLASS/**/*.wav``, or ``ROOT/train/CLASS/...`` with splits above the classes. Folders without audio
    are skipped, symbolic links are followed, and a broken link is a missing clip. Classes are ordered by name, or by
    value if all names are numbers. Class names are converted to composed Unicode (NFC).

    Args:
        root: The folder, or the CSV file.
        name: Name of the data set in results; default: the folder's or file's name.
        drawn: Fractions of the clips that are drawn for the splits ``val`` and ``test``; default: none.
        form: Columns of the CSV file; default: ``path``, ``labels``, ``split`` and ``fold``.
        val_fold: Fold of the CSV file that becomes the split ``val``.
        test_fold: Fold that becomes the split ``test``; the other folds are ``train``.

    Raises:
        DataError: If there are no clips, a row is invalid, the folders are folds or splits instead of classes, or a
            clip has no group.
        ConfigError: If the data set has its own splits, a column or fold does not exist, columns are named for a
            folder, or the groups cannot be used.
    """
    root = root.resolve()
    settings, is_table = drawn or SplitSettings(), root.is_file()
    if settings.group_column and not is_table:
        raise ConfigError(
            f"--group-column {settings.group_column}: {root} is no CSV file; use --group-pattern for folders"
        )
    if form is not None and not is_table:
        raise ConfigError(f"{root} is no CSV file: columns, separator and --audio-root are those of a CSV file")
    groups: dict[str, str] = {}
    manifest = read_table(root, form or TableForm(), settings, groups) if is_table else _read_class_folders(root)
    if settings.held_out:
        manifest = draw_splits(manifest, settings, groups)
    alike = [" and ".join(map(repr, names)) for names in names_read_alike(manifest.labels.names)]
    notes = tuple(f"classes {names} differ only in case, blanks, _, - or commas: are they one?" for names in alike)
    manifest = replace(manifest, dataset=name or root.stem, notes=(*manifest.notes, *notes))
    return with_fold_splits(manifest, val_fold, test_fold)


def _read_class_folders(root: Path) -> Manifest:
    files = {tuple(path.split("/")): is_there for path, is_there in files_below(root)}
    sounds = {parts: is_there for parts, is_there in files.items() if is_sound("/".join(parts))}
    inside = [parts for parts in sounds if len(parts) > 1]
    others = [parts[0] for parts in inside if parts[0].lower() not in _SPLIT_FOLDERS]
    # A class may be named `train`; with subfolders it is a split.
    splits = [parts[0] for parts in inside if parts[0].lower() in _SPLIT_FOLDERS and len(parts) > 2]
    if others and splits:
        raise DataError(
            f"{root}: {splits[0]!r} looks like a split, {others[0]!r} like a class; give either CLASS/*.wav or "
            "train/CLASS/*.wav, val/CLASS/*.wav, ... with nothing but splits at the top"
        )
    has_splits = bool(inside) and not others
    depth = 1 if has_splits else 0
    clips: list[Clip] = []
    missing: list[Clip] = []
    for parts, is_there in sounds.items():
        if len(parts) >= depth + 2:
            path = "/".join(parts)
            split = _SPLIT_FOLDERS[parts[0].lower()] if has_splits else UNSPLIT
            clip = Clip(path, f"{root}/{path}", (composed(parts[depth]),), split)
            (clips if is_there else missing).append(clip)
    if not clips:
        raise DataError(f"{root}: no audio files in class folders; expected such as {root.name}/dog/barking.wav")
    labels = LabelSet.of(in_label_order(label for clip in (*clips, *missing) for label in clip.labels))
    paths = list(map("/".join, files))
    names = sorted(labels.names)
    problem = _problem_of_folders(root, names, [path for path in paths if path.lower().endswith((".csv", ".tsv"))])
    if problem:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise DataError(f"{root}: the classes would be {listed}, which {problem}")
    n_ignored = len(without_manifests(paths)) - len(clips) - len(missing)
    folds = [name for name in labels.names if (match := _FOLD.fullmatch(name)) and "fold" in match[1].lower()]
    stores = [name for name in names if len(names) == 1 and _STORE.fullmatch(name)]
    notes = (
        *(f"{name} is not used; `epanns data speechcommands` reads it" for name in _LISTS_OF_WORDS if (name,) in files),
        *(f"the class {name} is called like a fold; its folder may hold sounds of all classes" for name in folds),
        *(f"the only class is called {name}; its folder may hold sounds of all classes" for name in stores),
    )
    return Manifest(root.name, labels, tuple(clips), tuple(missing), n_ignored, notes)


def _problem_of_folders(root: Path, names: list[str], tables: list[str]) -> str:
    """Return what the folders are and what to do if, by their names, they are no classes; empty if they are classes.

    Args:
        root: The data set's folder.
        names: Names of the folders that would become the classes, sorted.
        tables: Paths of CSV and TSV files, relative to `root`.
    """
    folds = [match for match in map(_FOLD.fullmatch, names) if match]
    if len(folds) == len(names):
        numbers = sorted(int(match[2]) for match in folds)
        # f1 and f2 may be two voices: names without "fold" are folds if they are three or more in a row, from 0 or 1.
        is_row = len(numbers) > 2 and numbers[0] < 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if is_row or all("fold" in match[1].lower() for match in folds):
            return f"are folds: {advice_on_urbansound8k(root) or _CSV_FORM}"
    if all(map(_FSD50K.fullmatch, names)):
        return "are parts of FSD50K: read the folder above them with `epanns data fsd50k`"
    if len(names) > 1 and all(map(_AUDIOSET.fullmatch, names)):
        return "are parts of AudioSet: read the folder above them with `epanns data audioset`"
    if all(map(_SPLIT.fullmatch, names)) and not _SPLIT_FOLDERS.keys() >= set(map(str.lower, names)):
        return f"are splits: call them train, val and test, with the class folders inside, or {_CSV_FORM}"
    if (root / "task_metadata.json").is_file():
        return "are parts of a task of HEAR: read it with `epanns data hear`"
    if len(names) == 1 and tables and _STORE.fullmatch(names[0]):
        has_meta = any(path.startswith("meta/") for path in tables)
        advice = "read it with `epanns data esc50`" if has_meta else advice_on_urbansound8k(root) or _CSV_FORM
        return f"is the folder of all sound, beside {tables[0]}: {advice}"
    return ""
