"""`epanns data`: write a manifest of a data set in its published layout."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import EXISTING, OUTPUT, EpannsCommand, json_option, out_option
from epanns.cli.shared.terminal import emit, log, progress_counter

if TYPE_CHECKING:
    from epanns.data.manifest import Manifest


@click.group()
def command() -> None:
    """Write a manifest of a data set in its published layout.

    Beside MANIFEST.csv are written MANIFEST.labels.csv, the classes in order; MANIFEST.missing.csv, the clips whose
    files were not found; and MANIFEST.info.json, the counts. Every layout has its own options, which --config FILE.toml
    can fill: see for example `epanns data esc50 --help`.
    """


def _manifest_command(function: Callable[..., Any]) -> click.Command:
    """Make a subcommand of a function, with the options that all layouts share."""
    decorated = json_option(out_option("Manifest to write, a CSV file.")(function))
    return command.command(cls=EpannsCommand)(decorated)


def _fold_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--val-fold`` and ``--test-fold``."""
    for split in ("test", "val"):
        text = f"Number of the fold that becomes the split '{split}'."
        function = click.option(f"--{split}-fold", type=int, help=text)(function)
    return function


name_option = click.option("--name", help="Name of the data set in results.  [default: name of its folder]")
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of the random draw.")


@_manifest_command
@click.argument("root", type=EXISTING)
@name_option
@_fold_options
def esc50(root: Path, out: Path, name: str | None, val_fold: int | None, test_fold: int | None, as_json: bool) -> None:
    """ESC-50, ESC-10 or another data set in their layout.

    Without --val-fold and --test-fold every fold is a split: fold1, fold2, ...
    """
    from epanns.data.datasets.esc50 import read_esc50

    _write(read_esc50(root, name=name, val_fold=val_fold, test_fold=test_fold), out, as_json)


@_manifest_command
@click.argument("root", type=EXISTING)
@name_option
@_fold_options
def urbansound8k(
    root: Path, out: Path, name: str | None, val_fold: int | None, test_fold: int | None, as_json: bool
) -> None:
    """UrbanSound8K or another data set in its layout.

    ROOT is the folder with audio/fold1, audio/fold2, ... and metadata/UrbanSound8K.csv, or the folder above it. Without
    --val-fold and --test-fold every fold is a split: fold1, fold2, ...

    The CSV file has the columns slice_file_name, fold and class; fsID and classID are used if they exist. Without the
    file, folds are the folders' and classes those of the names <fsID>-<classID>-<occurrence>-<slice>.wav. Where file,
    names and folders contradict each other, the CSV file is used, and a note has the number of clips.

    Slices of one recording are alike: `epanns evaluate --group-pattern '^([0-9]+)-'` computes intervals by recording.
    """
    from epanns.data.datasets.urbansound8k import read_urbansound8k

    _write(read_urbansound8k(root, name=name, val_fold=val_fold, test_fold=test_fold), out, as_json)


@_manifest_command
@click.argument("root", type=EXISTING)
@click.option("--name", help="Name of the data set in results.  [default: AudioSet]")
@click.option(
    "--segments",
    type=EXISTING,
    multiple=True,
    help="CSV list of segments; may be repeated.  [default: every *_segments.csv in ROOT and the folders directly "
    "below]",
)
@click.option("--labels", type=EXISTING, help="Class list, CSV index,mid,display_name.  [default: AudioSet's 527]")
@click.option("--whole-videos", is_flag=True, help="Read the listed segment of each file, which holds a whole video.")
def audioset(
    root: Path,
    out: Path,
    name: str | None,
    segments: tuple[Path, ...],
    labels: Path | None,
    whole_videos: bool,
    as_json: bool,
) -> None:
    """AudioSet or a part of it: lists of segments, and their audio files below ROOT.

    A list is the official CSV, or a copy with one plain header. Its split is the file name without _segments:
    balanced_train, unbalanced_train, eval.

    Audio files may be at any depth. Their names are Y<id>.wav, <id>.wav, <id>_<start>.wav, <id>_<start>_<end>.wav or
    <id>_<start>-<end>.wav, with times in seconds or milliseconds and any suffix of a sound file. A file whose times
    differ from the list belongs to another segment and is not used. Of two files of one segment the one with more
    times in its name is used, or else the first.

    Missing segments are counted and listed.
    """
    from epanns.data.datasets.audioset import read_audioset
    from epanns.labels import LabelSet

    with progress_counter("scanning", "file") as progress:
        manifest = read_audioset(
            root,
            name=name,
            segments=segments,
            labels=LabelSet.from_csv(labels) if labels else None,
            whole_videos=whole_videos,
            progress=progress,
        )
    _write(manifest, out, as_json)


@_manifest_command
@click.argument("root", type=EXISTING)
@click.option("--name", help="Name of the data set in results.  [default: FSD50K]")
@click.option("--ground-truth", type=EXISTING, help="Folder with dev.csv, eval.csv and vocabulary.csv.")
@click.option("--dev-audio", type=EXISTING, help="Folder of the development clips.")
@click.option("--eval-audio", type=EXISTING, help="Folder of the evaluation clips.")
def fsd50k(
    root: Path,
    out: Path,
    name: str | None,
    ground_truth: Path | None,
    dev_audio: Path | None,
    eval_audio: Path | None,
    as_json: bool,
) -> None:
    """FSD50K: the splits train, val and eval; 200 classes in the order of its vocabulary.

    ROOT holds the folders of the archives, FSD50K.ground_truth, FSD50K.dev_audio and FSD50K.eval_audio, or folders
    named ground_truth (or labels), dev_audio and eval_audio (or clips/dev and clips/eval). The options name folders
    elsewhere. Clips may be re-encoded: 64760.wav is also found as 64760.flac.

    Missing clips are counted and listed. Numbers of rows other than the published 36796, 4170 and 10231 are noted.
    """
    from epanns.data.datasets.fsd50k import read_fsd50k

    folders = {"ground_truth": ground_truth, "dev_audio": dev_audio, "eval_audio": eval_audio}
    _write(read_fsd50k(root, name=name, **folders), out, as_json)


@_manifest_command
@click.argument("root", type=EXISTING)
@name_option
def speechcommands(root: Path, out: Path, name: str | None, as_json: bool) -> None:
    """Speech Commands, version 0.01 or 0.02: the splits train, val and test; a class for each word.

    ROOT is the folder with one folder for each word, validation_list.txt and testing_list.txt, or a folder at most two
    levels above it. The clips of the lists are the splits val and test, the others train. The recordings in
    _background_noise_ are no clips; they are counted.

    The speaker is the part of a name before _nohash_: `epanns evaluate --group-pattern '^(.+)_nohash_'` computes
    intervals by speaker. A note has the number of speakers in several splits, if there are any.
    """
    from epanns.data.datasets.speechcommands import read_speechcommands

    _write(read_speechcommands(root, name=name), out, as_json)


@_manifest_command
@click.argument("root", type=EXISTING)
@name_option
@click.option("--sample-rate", type=int, help="Sample rate in Hz whose sound is read.  [default: the highest in ROOT]")
@_fold_options
def hear(
    root: Path,
    out: Path,
    name: str | None,
    sample_rate: int | None,
    val_fold: int | None,
    test_fold: int | None,
    as_json: bool,
) -> None:
    """A scene task of HEAR 2021: the splits train, val and test, or fold1, fold2, ... (HEAR's fold00 is fold1).

    ROOT is the folder of a task, with task_metadata.json, labelvocabulary.csv, the labels of each split (train.json,
    ... or fold00.json, ...) and the sound (48000/train/*.wav), or a folder at most two levels above it with no other
    task.

    Event tasks are refused: their labels have times, and their scores compare times, which tags of clips do not have.
    """
    from epanns.data.datasets.hear import read_hear

    folds = {"val_fold": val_fold, "test_fold": test_fold}
    _write(read_hear(root, name=name, sample_rate=sample_rate, **folds), out, as_json)


@_manifest_command
@click.argument("root", type=EXISTING)
@name_option
@click.option("--path-column", default="", help="Column of the CSV file with paths.  [default: path]")
@click.option(
    "--label-column",
    multiple=True,
    help="Column with the classes of each clip, one or several in a cell; may be repeated.  [default: labels]",
)
@click.option(
    "--label-separator", default=";", show_default=True, help="Separates the classes of one cell of a label column."
)
@click.option(
    "--one-hot-column",
    multiple=True,
    help="Column with 1 for clips of a class, named like the column, and 0 or nothing for others; or a pattern with * "
    "that matches several such columns. May be repeated.",
)
@click.option("--split-column", default="", help="Column with each clip's split.  [default: split, if there is one]")
@click.option("--fold-column", default="", help="Column with each clip's fold.  [default: fold, if there is one]")
@click.option("--start-column", default="", help="Column with each clip's start in its file, in seconds.")
@click.option("--duration-column", default="", help="Column with each clip's duration, in seconds.")
@click.option("--audio-root", type=EXISTING, help="Folder that paths are relative to.  [default: folder of the CSV]")
@click.option("--val-fraction", type=float, default=0.0, help="Fraction of the clips drawn for the split 'val'.")
@click.option("--test-fraction", type=float, default=0.0, help="Fraction of the clips drawn for the split 'test'.")
@seed_option
@click.option(
    "--group-pattern",
    default="",
    help="Regular expression with one capturing group, which matches each clip's recording, speaker or place in its "
    "file name or, failing that, its path below ROOT: '^[0-9]-([0-9]+)-' for ESC-50. Clips of one group get the same "
    "split.",
)
@click.option(
    "--group-column", default="", help="Column of the CSV file with each clip's group, instead of --group-pattern."
)
@_fold_options
def folder(
    root: Path,
    out: Path,
    name: str | None,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    group_pattern: str,
    group_column: str,
    val_fold: int | None,
    test_fold: int | None,
    as_json: bool,
    **columns: Any,
) -> None:
    """One folder per class, or a CSV (or .tsv) file with a row per clip; ROOT is the folder or the file.

    Folders: ROOT/train, ROOT/val and ROOT/test above the class folders are splits.

    CSV file: its first line names the columns; without options path, labels, split and fold are read, the last two if
    they exist. The options name others. A clip's classes are those of all label columns and one-hot columns. Without a
    split column each fold is a split: fold1, fold2, ... With a start or duration column a clip is a part of its file.

    --val-fraction and --test-fraction draw stratified splits: each class with at least two groups (three with a test
    set) is in each split, unless other classes of these groups prevent it. The clips of one file are one group.
    """
    from epanns.data.datasets.class_folders import read_folder
    from epanns.data.datasets.clip_table import TableForm
    from epanns.data.datasets.splits import SplitSettings

    columns["audio_root"] = str(columns["audio_root"] or "")
    form = TableForm(**columns)
    manifest = read_folder(
        root,
        name=name,
        drawn=SplitSettings(val_fraction, test_fraction, seed, group_pattern, group_column),
        form=form if form != TableForm() else None,
        val_fold=val_fold,
        test_fold=test_fold,
    )
    _write(manifest, out, as_json)


@_manifest_command
@click.argument("root", type=OUTPUT)
@click.option("--clips", default=1000, show_default=True, help="Number of clips: 3/5 train, 1/5 val, 1/5 test.")
@click.option("--classes", default=10, show_default=True, help="Number of kinds of sound events, up to 12.")
@click.option("--seconds", default=2.0, show_default=True, help="Length of each clip in seconds.")
@click.option("--sample-rate", default=32_000, show_default=True, help="Sample rate in Hz.")
@seed_option
def synthetic(
    root: Path, out: Path, clips: int, classes: int, seconds: float, sample_rate: int, seed: int, as_json: bool
) -> None:
    """Generated multi-label clips below ROOT: sound events at random times and levels in noise."""
    from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic

    settings = SyntheticSettings(clips=clips, classes=classes, seconds=seconds, sample_rate=sample_rate, seed=seed)
    with progress_counter("generating", "clip") as progress:
        manifest = make_synthetic(root, settings, progress=progress)
    _write(manifest, out, as_json)


def _write(manifest: "Manifest", out: Path, as_json: bool) -> None:
    from epanns.data.manifest import missing_path, write_manifest

    write_manifest(manifest, out)
    counts = manifest.summary()
    splits = ", ".join(f"{split} {count}" for split, count in counts["splits"].items())
    text = f"{out}: {counts['found']} clips of {counts['expected']}, {counts['classes']} classes; {splits}"
    if manifest.missing:
        missing = Counter(clip.split for clip in manifest.missing)
        of_splits = ", ".join(f"{split} {missing[split]}" for split in sorted(missing))
        text += f"\n{len(manifest.missing)} files were not found ({of_splits}); they are listed in {missing_path(out)}"
    if manifest.ignored:
        text += f"\n{manifest.ignored} files were ignored: not audio, not listed, or outside the layout"
    for note in manifest.notes:
        log(f"note: {note}")
    emit({**counts, "notes": list(manifest.notes), "manifest": str(out)}, text, as_json)
