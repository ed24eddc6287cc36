"""One's own recordings -> manifest: one folder per class, or a CSV of paths and labels."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from epanns.data.clip import LABEL_SEPARATOR, Clip
from epanns.data.csv_table import read_csv_table
from epanns.data.manifest import Manifest
from epanns.data.sound_files import files_below, is_sound
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet
from epanns.seeding import numpy_generator

_WHOLE = "all"  # the split of clips that nobody has split
_SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def read_folder(
    root: Path, *, name: str | None = None, val_fraction: float = 0.0, test_fraction: float = 0.0, seed: int = 0
) -> Manifest:
    """Read class folders, or a CSV file.

    Folders: ``ROOT/CLASS/**/*.wav``, or ``ROOT/train/CLASS/...`` with splits above the classes; folders without sound
    are passed over, links are followed, and one that leads nowhere is a missing clip. CSV: the columns `path`
    (relative to the CSV's folder) and `labels` (separated by ``;``), and if wanted `split` and `fold`. Classes are
    ordered by name.

    Args:
        root: The folder, or the CSV file.
        name: What results will call the data set; the folder's or file's name where not given.
        val_fraction: Share of the clips, 0..1, drawn for the split ``val``.
        test_fraction: Share drawn for ``test``; the rest is ``train``. A clip's draw depends on its id and the seed
            alone, so clips that are added move no other.
        seed: Of the draw.

    Raises:
        DataError: If there is nothing to read, or a row breaks a rule.
        ConfigError: If the fractions leave nothing to train on, or the data set has splits of its own.
    """
    root = root.resolve()
    manifest = _read_table(root) if root.is_file() else _read_class_folders(root)
    if val_fraction or test_fraction:
        manifest = _draw_splits(manifest, val_fraction, test_fraction, seed)
    return replace(manifest, dataset=name or root.stem)


def _read_class_folders(root: Path) -> Manifest:
    files = {tuple(path.split("/")): is_there for path, is_there in files_below(root)}
    sounds = {parts: is_there for parts, is_there in files.items() if is_sound("/".join(parts))}
    has_splits = _has_splits(root, sounds)
    depth = 1 if has_splits else 0
    clips: list[Clip] = []
    missing: list[Clip] = []
    for parts, is_there in sounds.items():
        if len(parts) >= depth + 2:
            path = "/".join(parts)
            split = _SPLIT_FOLDERS[parts[0].lower()] if has_splits else _WHOLE
            (clips if is_there else missing).append(Clip(path, f"{root}/{path}", (parts[depth],), split))
    if not clips:
        raise DataError(f"{root}: no audio files in class folders; expected such as {root.name}/dog/barking.wav")
    n_ignored = len(files) - len(clips) - len(missing)
    return Manifest(root.name, _labels_of([*clips, *missing]), tuple(clips), tuple(missing), n_ignored)


def _has_splits(root: Path, sounds: Iterable[tuple[str, ...]]) -> bool:
    """Whether the folders at the top that hold sound are splits; in doubt whether they are, refuse."""
    inside = [parts for parts in sounds if len(parts) > 1]
    others = [parts[0] for parts in inside if parts[0].lower() not in _SPLIT_FOLDERS]
    # A class may be called `train`; with folders of its own it can hardly be one.
    splits = [parts[0] for parts in inside if parts[0].lower() in _SPLIT_FOLDERS and len(parts) > 2]
    if others and splits:
        raise DataError(
            f"{root}: {splits[0]!r} looks like a split, {others[0]!r} like a class; give either CLASS/*.wav or "
            "train/CLASS/*.wav, val/CLASS/*.wav, ... with nothing but splits at the top"
        )
    return bool(inside) and not others


def _labels_of(clips: list[Clip]) -> LabelSet:
    return LabelSet.of(sorted({label for clip in clips for label in clip.labels}))


def _read_table(table: Path) -> Manifest:
    columns, rows = read_csv_table(table)
    if not {"path", "labels"} <= set(columns):
        raise DataError(f"{table}: first line is {','.join(columns)!r}, must name the columns path and labels")
    if not rows:
        raise DataError(f"{table}: holds no clips; write one row per clip below the first line")
    clips = [_clip_of(row, table, number) for number, row in enumerate(rows, start=1)]
    _refuse_shared_files(clips, table)
    found = tuple(clip for clip in clips if Path(clip.path).is_file())
    missing = tuple(clip for clip in clips if not Path(clip.path).is_file())
    return Manifest(table.stem, _labels_of(clips), found, missing)


def _refuse_shared_files(clips: list[Clip], table: Path) -> None:
    """Raise if one file, however its path is written, is in two splits."""
    first_rows: dict[Path, int] = {}
    for number, clip in enumerate(clips, start=1):
        row = first_rows.setdefault(Path(clip.path).resolve(), number)
        if clips[row - 1].split != clip.split:
            splits = f"{clips[row - 1].split!r} and {clip.split!r}"
            raise DataError(
                f"{table}, rows {row} and {number}: one file in the splits {splits}: a leak; keep it in one"
            )


def _clip_of(row: dict[str, str], table: Path, number: int) -> Clip:
    path, labels, fold = (row.get(column) or "" for column in ("path", "labels", "fold"))
    names = tuple(label.strip() for label in labels.split(LABEL_SEPARATOR) if label.strip())
    if not path or not names or (fold and not (fold.isascii() and fold.isdigit())):
        rule = "path and labels must be given, fold must be a whole number or empty"
        raise DataError(f"{table}, row {number}: path {path!r}, labels {labels!r}, fold {fold!r}: {rule}")
    return Clip(path, str(table.parent / path), names, row.get("split") or _WHOLE, fold=int(fold) if fold else None)


def _draw_splits(manifest: Manifest, val_fraction: float, test_fraction: float, seed: int) -> Manifest:
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):  # NaN neither
        given = f"--val-fraction {val_fraction:g} and --test-fraction {test_fraction:g}"
        raise ConfigError(f"{given}: must not be negative and must leave clips to train on")
    if set(manifest.splits) != {_WHOLE}:
        raise ConfigError(
            f"{manifest.dataset} has its own splits ({', '.join(manifest.splits)}): "
            "leave out --val-fraction and --test-fraction"
        )

    def assign(clip: Clip) -> Clip:
        draw = numpy_generator("folder split", seed, clip.clip_id).random()
        in_test, in_val = draw < test_fraction, draw < test_fraction + val_fraction
        return replace(clip, split="test" if in_test else "val" if in_val else "train")

    clips, missing = (tuple(map(assign, part)) for part in (manifest.clips, manifest.missing))
    return replace(manifest, clips=clips, missing=missing)
