"""Folders that are no classes: folds, splits and archives, which `epanns.data.folder` must not take for classes."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from epanns.errors import DataError

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Name of a folder in small letters -> the split it holds."""

CSV_FORM = "write a CSV with the columns path, labels and fold or split, and give it to `epanns data folder FILE.csv`"
"""What to do with a layout that no other reader fits."""

_FOLD = re.compile(r"(folds?|k?fold|cv|split|part|f)[\W_]*([0-9]{1,3})", re.IGNORECASE)
_SPLIT = re.compile(
    rf"(\w+\.)?(audio_)?({'|'.join(SPLIT_FOLDERS)})[\W_]*(audio|set|data|clips?|files?|wavs?|sounds?|split|curated|noisy)?"
    r"[\W_]*[0-9]*",
    re.IGNORECASE,
)
_STORE = re.compile(r"(audio|wave?|mp3|flac|ogg|sound|clip|recording|data)[\W_]*(files?|clips?|data)?s?", re.IGNORECASE)
_FSD50K = re.compile(r"(FSD50K\.)?(dev|eval)_audio", re.IGNORECASE)
_AUDIOSET = re.compile(r"((un)?balanced_train|eval)(_segments|_audio|_wavs?)*(_part[0-9]+)?", re.IGNORECASE)
_URBANSOUND_TABLE = "metadata/UrbanSound8K.csv"


def refuse_other_layouts(root: Path, classes: Collection[str], files: Iterable[str]) -> None:
    """Refuse class folders that are, by their names, folds, splits or the only folder of sound beside a list.

    Args:
        root: The data set's folder.
        classes: Names of the folders that would become the classes.
        files: Paths of all files below `root`, relative to it.

    Raises:
        DataError: If they are; the reader that fits is named.
    """
    names = sorted(classes)
    found = _what_they_are(root, names, [path for path in files if path.lower().endswith((".csv", ".tsv"))])
    if found:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise DataError(f"{root}: the classes would be {shown}, which {found[0]}: {found[1]}")


def doubts(classes: Collection[str]) -> list[str]:
    """Return a sentence for each class whose name is rather that of a folder of folds or of all sounds."""
    folds = [name for name in classes if (match := _FOLD.fullmatch(name)) and "fold" in match[1].lower()]
    stores = [name for name in classes if len(classes) == 1 and _STORE.fullmatch(name)]
    return [
        *(f"the class {name} is called like a fold; its folder may hold sounds of all classes" for name in folds),
        *(f"the only class is called {name}; its folder may hold sounds of all classes" for name in stores),
    ]


def advice_on_urbansound(root: Path) -> str:
    """Return what to do with a folder in UrbanSound8K's layout; empty for any other folder."""
    if ((root.parent if root.name == "audio" else root) / _URBANSOUND_TABLE).is_file():
        return f"UrbanSound8K's layout ({_URBANSOUND_TABLE} and audio/fold1, ...) has no reader of its own: {CSV_FORM}"
    return ""


def _what_they_are(root: Path, names: list[str], lists: list[str]) -> tuple[str, str] | None:
    """Return what the folders are, if they are no classes, and what to do."""
    if _are_folds(names):
        return "are folds", advice_on_urbansound(root) or CSV_FORM
    if all(map(_FSD50K.fullmatch, names)):
        return "are parts of FSD50K", "read the folder above them with `epanns data fsd50k`"
    if len(names) > 1 and all(map(_AUDIOSET.fullmatch, names)):
        return "are parts of AudioSet", "read the folder above them with `epanns data audioset`"
    if all(map(_SPLIT.fullmatch, names)) and not SPLIT_FOLDERS.keys() >= set(map(str.lower, names)):
        return "are splits", f"call them train, val and test, with the class folders inside, or {CSV_FORM}"
    if len(names) == 1 and lists and _STORE.fullmatch(names[0]):
        fitting = "read it with `epanns data esc50`" if any(path.startswith("meta/") for path in lists) else ""
        return f"is the folder of all sound, beside {lists[0]}", fitting or advice_on_urbansound(root) or CSV_FORM
    return None


def _are_folds(names: list[str]) -> bool:
    matches = [match for match in map(_FOLD.fullmatch, names) if match]
    if len(matches) < len(names):
        return False
    if all("fold" in match[1].lower() for match in matches):
        return True
    # Other such names may be classes (f1 and f2, two voices): three or more in a row, from 0 or 1, are taken for folds.
    numbers = sorted(int(match[2]) for match in matches)
    return len(numbers) > 2 and numbers[0] < 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
