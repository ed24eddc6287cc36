"""`epanns tag`: tag audio files, window by window."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from epanns.cli.shared.options import (
    OUTPUT,
    PATH,
    EpannsCommand,
    device_option,
    json_option,
    reserve,
    torch_device,
)
from epanns.cli.shared.terminal import emit, log, report_once
from epanns.errors import DataError
from epanns.safe_text import printable, spreadsheet_cell

if TYPE_CHECKING:
    from epanns.evaluation.predict import ScoredWindow
    from epanns.evaluation.protocol import EvaluationProtocol
    from epanns.models.tagger import Tagger

_LISTED = 3  # files in a remark


@click.command("tag", cls=EpannsCommand)
@click.argument("checkpoint", metavar="[CKPT]", required=False, type=PATH)
@click.argument("audio", metavar="AUDIO...", nargs=-1, type=PATH)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Number of tags per window.")
@click.option(
    "--window",
    type=click.FloatRange(0, min_open=True),
    help="Length in seconds of the windows.  [default: whole files up to 30 s, else 10 s]",
)
@click.option(
    "--hop",
    type=click.FloatRange(0, min_open=True),
    help="Seconds between the starts of windows, with --window.  [default: --window]",
)
@click.option(
    "--csv", "csv_path", type=OUTPUT, help="CSV file to write, with the scores of all classes in every window."
)
@device_option
@json_option
def command(
    checkpoint: Path | None,
    audio: tuple[Path, ...],
    top: int,
    window: float | None,
    hop: float | None,
    csv_path: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Tag AUDIO: files of any length, sample rate and number of channels, or folders of such files.

    CKPT is a checkpoint, a .pth/.pt file of PANNs or E-PANNs, or the name of an included network; without it, the
    included network esc50 tags the 50 classes of ESC-50. The first argument is AUDIO if it has the suffix of a sound
    file, or is a folder that holds sound and no checkpoint.

    Scores are a sigmoid for each class, or one softmax if the network is single-label. Without --window a file of up to
    30 s is scored as a whole, a longer file in windows of 10 s. The last window is shifted back to end with the file.

    A file that cannot be read is reported on stderr, and the other files are tagged; the exit code is then 1. Samples
    beyond [-1, 1] and sound beyond the length in a file's header are counted.
    """
    from epanns.evaluation.protocol import EvaluationProtocol
    from epanns.models.files.load import load

    if checkpoint is None:
        raise click.UsageError("no sound: name sound files, or folders of them")
    checkpoint, audio = network_and_audio(checkpoint, audio)
    protocol = EvaluationProtocol(window, hop)
    if csv_path is not None:
        reserve(csv_path)
    model = load(checkpoint).to(torch_device(device))
    outcome = Outcome()
    printed: list[dict[str, Any]] = []
    with score_table(csv_path, model.labels.names) as table:
        for windows in tag_files(model, audio, protocol, top, table, outcome):
            if as_json:
                printed += windows
            else:
                emit({}, "\n".join(map(describe_window, windows)), as_json=False)
    if as_json:
        failed = [{"file": str(path), "reason": str(error)} for path, error in outcome.failed]
        result = {"windows": printed, "files": [asdict(file) for file in outcome.files], "failed": failed}
        emit(result, "", as_json=True)
    for remark in remarks_on(outcome.files):
        log(remark)
    if outcome.failed:
        raise outcome.error()


def network_and_audio(first: Path, rest: tuple[Path, ...]) -> tuple[Path, tuple[Path, ...]]:
    """Return the network and the sound of the arguments; the included network, with a line on stderr, if none is given.

    Args:
        first: The first argument: a network, unless it has the suffix of a sound file or is a folder that holds sound
            and no checkpoint.
        rest: The others: sound.

    Raises:
        click.UsageError: If there is no sound, or the first argument neither exists nor is a sound file by its suffix.
    """
    from epanns.audio.waveform import AUDIO_SUFFIXES
    from epanns.data.datasets.sound_files import sounds_below
    from epanns.models.files.checkpoint import CONFIG, WEIGHTS
    from epanns.models.files.checkpoint_texts import is_config
    from epanns.models.files.included import DEFAULT, included_folder, included_network

    if first.is_dir():
        holds_network = is_config(first / CONFIG) or (first / WEIGHTS).exists()
        names_sound = not holds_network and next(sounds_below(first), None) is not None
    else:
        names_sound = first.suffix.lower() in AUDIO_SUFFIXES
    if names_sound:
        network = included_network(DEFAULT)
        log(
            f"no checkpoint is given: the included network {network.name} tags {network.classes} "
            f"({network.licence}); see `epanns info {network.name}`"
        )
        return network.folder, (first, *rest)
    folder = included_folder(first)
    if folder is None and not first.exists():
        raise click.UsageError(
            f"{printable(str(first))}: neither a checkpoint nor a sound file: no such path, and no included network "
            "has this name; correct it"
        )
    if not rest:
        raise click.UsageError(
            f"{printable(str(first))}: neither a sound file nor a folder of sound; name sound, behind a checkpoint or "
            "without one"
        )
    return folder or first, rest


def describe_window(window: dict[str, Any]) -> str:
    """Return a window and its tags as a line of text."""
    tags = ", ".join(f"{printable(tag['name'])} {tag['score']:.3f}" for tag in window["tags"])
    return f"{printable(window['file'])}  {window['start']:.2f}-{window['end']:.2f} s  {tags}"


@dataclass(frozen=True)
class TaggedFile:
    """Counts about a file that was tagged.

    Attributes:
        clipped: Number of samples beyond [-1, 1], at the network's sample rate, which were limited.
        beyond_header: Seconds of sound beyond the length in the file's header.
        states_length: Whether the header has the length; otherwise a cut between frames cannot be detected.
    """

    file: str
    seconds: float
    clipped: int
    beyond_header: float
    states_length: bool


@dataclass
class Outcome:
    """The files of a run."""

    files: list[TaggedFile] = field(default_factory=list)
    failed: list[tuple[Path, DataError]] = field(default_factory=list)

    def add_failure(self, path: Path, error: DataError) -> None:
        """Report the error of a file on stderr and store it."""
        report_once(error)
        self.failed.append((path, error))

    def error(self) -> DataError:
        """Return the error of the run: that of the only file, which is already reported, or the number of failures."""
        n_failed, n_files = len(self.failed), len(self.failed) + len(self.files)
        if n_files == 1:
            return self.failed[0][1]
        rest = "; the rest were" if self.files else ""
        return DataError(f"{n_failed} of {n_files} files could not be tagged, for the reasons above{rest}")


def tag_files(
    model: "Tagger",
    audio: Iterable[Path],
    protocol: "EvaluationProtocol",
    top: int,
    table: "ScoreTable | None",
    outcome: Outcome,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the windows of each file, and add the file or its error to `outcome`.

    Raises:
        DataError: If none of the files can be tagged.
    """
    for path in sound_files(audio, outcome):
        try:
            file, windows = tag_file(model, path, protocol, top, table)
        except DataError as error:
            outcome.add_failure(path, error)
            continue
        outcome.files.append(file)
        yield windows
    if not outcome.files:
        raise outcome.error()


def tag_file(
    model: "Tagger", path: Path, protocol: "EvaluationProtocol", top: int, table: "ScoreTable | None" = None
) -> tuple[TaggedFile, list[dict[str, Any]]]:
    """Return the counts of one file, and its windows with their `top` highest scores.

    `table` receives all scores; the file's rows are removed again if the file cannot be read to its end.

    Raises:
        DataError: If the file cannot be decoded.
    """
    from epanns.audio.waveform import waveform_stream
    from epanns.evaluation.predict import score_recording

    rate, names = model.spec.front_end.sample_rate, model.labels.names
    windows: list[dict[str, Any]] = []
    with waveform_stream(path, sample_rate=rate) as stream, table or nullcontext():
        for window in score_recording(model, stream, protocol):
            scores = window.scores.tolist()
            if table is not None:
                table.write(path, window, scores)
            best = sorted(range(len(scores)), key=lambda index: -scores[index])[:top]
            tags = [{"name": names[index], "score": round(scores[index], 6)} for index in best]
            windows.append({"file": str(path), "start": window.start, "end": window.end, "tags": tags})
    seconds, beyond = round(stream.n_samples / rate, 6), round(stream.n_beyond_header / rate, 6)
    return TaggedFile(str(path), seconds, stream.n_clipped, beyond, stream.states_length), windows


def sound_files(audio: Iterable[Path], outcome: Outcome) -> Iterator[Path]:
    """Yield the given files and the sound files in the given folders.

    A folder that cannot be listed, or has no sound file, is added to the failures of `outcome`.
    """
    from epanns.data.datasets.sound_files import files_below, is_sound

    for path in audio:
        if not path.is_dir():
            yield path
            continue
        try:
            names = [name for name, _ in files_below(path)]
            sounds = [name for name in names if is_sound(name)]
            if not sounds:
                raise DataError(f"{path}: holds no sound file ({len(names)} other files); name a folder of sound")
        except DataError as error:
            outcome.add_failure(path, error)
            continue
        if len(sounds) < len(names):
            log(f"{path}: {len(sounds):,} sound files; {len(names) - len(sounds):,} other files are left out")
        yield from (path / name for name in sounds)


def remarks_on(files: list[TaggedFile]) -> list[str]:
    """Return one line for each reason why the sound of files was changed or may be incomplete."""
    n_clipped = sum(file.clipped for file in files)
    counts = {
        f"{n_clipped:,} samples beyond [-1, 1] were limited": {
            file.file: f"{file.clipped:,}" for file in files if file.clipped
        },
        "sound beyond the length that the header states was tagged too": {
            file.file: f"{file.beyond_header:g} s" for file in files if file.beyond_header
        },
        "length not stated by the file, so that a cut may not show": {
            file.file: "" for file in files if not file.states_length
        },
    }
    remarks = []
    for text, found in counts.items():
        listed = [f"{printable(file)} {count}".strip() for file, count in list(found.items())[:_LISTED]]
        if n_more := len(found) - len(listed):
            listed.append(f"{n_more} more file{'s' * (n_more > 1)}")
        remarks += [f"{text}: {', '.join(listed)}"] if found else []
    return remarks


class ScoreTable:
    """The CSV file of all scores; as a context manager it removes the rows of a file whose reading fails."""

    def __init__(self, file: TextIO, names: Iterable[str]) -> None:
        """Write the header row."""
        self._file, self._start = file, 0
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(["file", "start", "end", *map(spreadsheet_cell, names)])

    def __enter__(self) -> Self:
        self._start = self._file.tell()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._file.seek(self._start)
            self._file.truncate()

    def write(self, path: Path, window: "ScoredWindow", scores: list[float]) -> None:
        """Write the row of one window."""
        self._writer.writerow([spreadsheet_cell(str(path)), window.start, window.end, *scores])


@contextmanager
def score_table(path: Path | None, names: Iterable[str]) -> Iterator[ScoreTable | None]:
    """Yield a table that is written to `path` when the block ends without error; None without a path."""
    from epanns.atomic import replacing

    if path is None:
        yield None
        return
    # File names that are not UTF-8 are escaped.
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield ScoreTable(file, names)
