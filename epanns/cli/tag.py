"""``epanns tag``: what is heard in audio files."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.options import EXISTING, OUTPUT, EpannsCommand, emit, json_option, reserve

if TYPE_CHECKING:
    from epanns.models.tagger import Tagger


_WHOLE_SECONDS = 30  # a feature map of more would take gigabytes
_WINDOW_SECONDS = 10  # the clip length PANNs were trained on


@click.command("tag", cls=EpannsCommand)
@click.argument("checkpoint", metavar="CKPT", type=EXISTING)
@click.argument("audio", metavar="AUDIO...", nargs=-1, required=True, type=EXISTING)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Tags shown per window.")
@click.option("--window", type=click.FloatRange(0, min_open=True), help="Seconds per window; whole files up to 30 s.")
@click.option("--hop", type=click.FloatRange(0, min_open=True), help="Seconds between windows; by default --window.")
@click.option("--csv", "csv_path", type=OUTPUT, help="Also write every class of every window here.")
@json_option
def command(
    checkpoint: Path,
    audio: tuple[Path, ...],
    top: int,
    window: float | None,
    hop: float | None,
    csv_path: Path | None,
    as_json: bool,
) -> None:
    """Name what is heard in AUDIO, files of any length, sample rate and number of channels.

    Scores are probabilities of each class by itself (sigmoid) and do not sum to 1; those of a single-label network are
    of one class out of all (softmax) and do. Without --window a file of up to 30 s is heard as a whole, a longer one in
    windows of 10 s; the last window is shifted back to end with the file.
    """
    from epanns.atomic import write_text
    from epanns.evaluation.protocol import EvaluationProtocol
    from epanns.models.checkpoint import load

    EvaluationProtocol(window, hop)  # refuses what cannot be
    if csv_path is not None:
        reserve(csv_path)
    model = load(checkpoint)
    tags = [window_tags for path in audio for window_tags in tag_file(model, path, window, hop)]
    if csv_path is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "start", "end", *model.labels.names])
        writer.writerows([tag["file"], tag["start"], tag["end"], *tag["scores"]] for tag in tags)
        write_text(csv_path, text.getvalue())
    shown = [
        {"file": tag["file"], "start": tag["start"], "end": tag["end"], "tags": best(model, tag["scores"], top)}
        for tag in tags
    ]
    lines = [
        f"{tag['file']}  {tag['start']:.2f}-{tag['end']:.2f} s  "
        + ", ".join(f"{found['name']} {found['score']:.3f}" for found in tag["tags"])
        for tag in shown
    ]
    emit({"windows": shown}, "\n".join(lines), as_json)


def tag_file(model: "Tagger", path: Path, window: float | None, hop: float | None) -> list[dict[str, Any]]:
    """Score the windows of one file."""
    import torch

    from epanns.audio.waveform import load_waveform
    from epanns.evaluation.predict import score_windows, window_starts

    rate = model.spec.front_end.sample_rate
    samples = torch.from_numpy(load_waveform(path, sample_rate=rate).samples)
    if window is None:
        length = len(samples) if len(samples) <= _WHOLE_SECONDS * rate else _WINDOW_SECONDS * rate
    else:
        length = min(len(samples), max(1, round(window * rate)))
    step = length if hop is None else max(1, round(hop * rate))
    scores = score_windows(model, samples, length, step).tolist()
    return [
        {
            "file": str(path),
            "start": round(start / rate, 6),
            "end": round((start + length) / rate, 6),
            "scores": row,
        }
        for start, row in zip(window_starts(len(samples), length, step), scores, strict=True)
    ]


def best(model: "Tagger", scores: list[float], top: int) -> list[dict[str, Any]]:
    """Return the highest scores with their class names."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top]
    return [{"name": model.labels.names[index], "score": round(scores[index], 6)} for index in order]
