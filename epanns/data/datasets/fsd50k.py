"""Read FSD50K into a manifest.

Source: Fonseca et al., "FSD50K: an Open Dataset of Human-Labeled Sound Events", 2020. Labels in its ground truth are
already propagated up the hierarchy; the classes are those of ``vocabulary.csv``, in its order.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from epanns.data.clip import Clip
from epanns.data.datasets.folds import require_columns
from epanns.data.datasets.sound_files import SoundsByStem
from epanns.data.manifest import Manifest
from epanns.errors import DataError
from epanns.labels import LabelSet
from epanns.strict import shown
from epanns.text_files import SHORT_LIST, CsvKind, read_csv_rows, read_csv_table

PUBLISHED = {"train": 36_796, "val": 4_170, "eval": 10_231}
"""Rows of each split in the ground truth as published."""

# Usual names of its folders; the archives' own names first.
_GROUND_TRUTH = ("FSD50K.ground_truth", "ground_truth", "labels", "")
_AUDIO = {
    part: (f"FSD50K.{part}_audio", f"{part}_audio", f"clips/{part}", f"audio/{part}", part) for part in ("dev", "eval")
}
_VOCABULARY = CsvKind("a vocabulary", limit=SHORT_LIST.limit, need=SHORT_LIST.need)
_COLUMNS = ("fname", "labels", "mids")


def read_fsd50k(
    root: Path,
    *,
    name: str | None = None,
    ground_truth: Path | None = None,
    dev_audio: Path | None = None,
    eval_audio: Path | None = None,
) -> Manifest:
    """Read FSD50K as published, or with its folders called ``ground_truth``, ``dev_audio``, ``clips/dev`` and the like.

    The splits are ``train`` and ``val``, as ``dev.csv`` has them, and ``eval``. Re-encoded audio is found by its stem.

    Args:
        root: The data set's folder.
        name: Name of the data set in results; default: FSD50K.
        ground_truth: Folder of ``dev.csv``, ``eval.csv`` and ``vocabulary.csv``; default: found below `root`.
        dev_audio: Folder of the development clips; default: found below `root`.
        eval_audio: Folder of the evaluation clips; default: found below `root`.

    Raises:
        DataError: If the ground truth is not found, a row is invalid, or a clip is in two splits.
    """
    root = root.resolve()
    truth = ground_truth or _find_folder(root, _GROUND_TRUTH, "--ground-truth", holding="vocabulary.csv")
    if truth is None:
        raise DataError(
            f"{root}: no FSD50K.ground_truth with dev.csv, eval.csv and vocabulary.csv; extract that archive here or "
            "name its folder with --ground-truth"
        )
    truth = truth.resolve()
    labels = _read_vocabulary(truth / "vocabulary.csv")
    folders = {}
    for part, given in (("dev", dev_audio), ("eval", eval_audio)):
        folder = given or _find_folder(root, _AUDIO[part], f"--{part}-audio")
        folders[part] = (folder or root / _AUDIO[part][0]).resolve()  # without a folder, all its clips are missing
    sounds = {folder: SoundsByStem(folder) for folder in folders.values()}  # one folder may hold both parts
    clips: list[Clip] = []
    missing: list[Clip] = []
    seen: dict[str, tuple[str, str]] = {}
    for part, folder in folders.items():
        for clip, where in _read_rows(truth / f"{part}.csv", labels):
            split, earlier = seen.setdefault(clip.clip_id, (clip.split, where))
            if earlier != where:
                twice = "is listed twice; remove one"
                if split != clip.split:
                    twice = f"is in the splits {shown(split)} and {shown(clip.split)}: a leak; keep it in one"
                raise DataError(f"{earlier} and {where}: fname {shown(clip.clip_id)} {twice}")
            filename = f"{clip.clip_id}.wav"
            path = sounds[folder].find(filename, where)
            located = Clip(clip.clip_id, path or f"{folder}/{filename}", clip.labels, clip.split)
            (clips if path else missing).append(located)
    n_ignored = sum(found.n_files for found in sounds.values()) - len(clips)
    counts = Counter(split for split, _ in seen.values())
    notes = []
    if counts != PUBLISHED:
        rows, published = (", ".join(f"{split} {part[split]}" for split in PUBLISHED) for part in (counts, PUBLISHED))
        notes.append(f"rows of the ground truth: {rows}; FSD50K as published has {published}")
    return Manifest(name or "FSD50K", labels, tuple(clips), tuple(missing), n_ignored, tuple(notes))


def _find_folder(root: Path, names: Sequence[str], option: str, *, holding: str = ".") -> Path | None:
    """Return the subfolder with one of some names that holds a file; raise if there are several."""
    found = [folder for folder in (root / name for name in names) if (folder / holding).exists()]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]} both exist; choose one with {option}")
    return found[0] if found else None


def _read_vocabulary(path: Path) -> LabelSet:
    """Read ``index,label,mid``; the file has no header."""
    rows = list(read_csv_rows(path, _VOCABULARY))
    for number, row in enumerate(rows):
        if len(row) != 3 or row[0] != str(number) or not all(row):
            given = f"{shown(','.join(row)[:80])} must be {number},<label>,<mid>"
            raise DataError(f"{path}, line {number + 1}: {given}; has {len(row)} fields, must have 3")
    return LabelSet(tuple(row[1] for row in rows), tuple(row[2] for row in rows))


def _read_rows(table: Path, labels: LabelSet) -> Iterator[tuple[Clip, str]]:
    """Yield the clips of ``dev.csv`` or ``eval.csv``, without paths, each with its file and row."""
    columns, rows = read_csv_table(table, SHORT_LIST)
    splits = ("train", "val") if table.name == "dev.csv" else ()
    needed = (*_COLUMNS, "split") if splits else _COLUMNS
    require_columns(table, columns, needed, "FSD50K's")
    mids = dict(zip(labels.names, labels.mids, strict=True))
    for number, row in enumerate(rows, start=1):
        where = f"{table}, row {number}"
        if not row["fname"]:
            raise DataError(f"{where}: fname is empty; give the clip's number on Freesound")
        split = row["split"] if splits else "eval"
        if splits and split not in splits:
            raise DataError(f"{where}: split {shown(split)} must be train or val")
        names, given = tuple((row["labels"] or "").split(",")), (row["mids"] or "").split(",")
        unknown = [name for name in names if name not in mids]
        if unknown:
            raise DataError(f"{where}: label {shown(unknown[0])} is not among the {len(mids)} of vocabulary.csv")
        expected = [mids[name] for name in names]
        if given != expected:
            theirs, ours = shown(",".join(given)), shown(",".join(expected))
            raise DataError(f"{where}: mids {theirs} are not those of its labels, {ours} in vocabulary.csv")
        yield Clip(row["fname"], "", names, split), where
