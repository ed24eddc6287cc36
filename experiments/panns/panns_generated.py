"""Generated sound in the layouts of AudioSet and FSD50K, and a file like PANNs' with random weights, for a trial.

python panns_generated.py FOLDER --train 24 --val 4 --test 12 --width 1
"""

import argparse
import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from epanns.data.datasets.synthetic import EVENTS, SyntheticSettings, draw_clip
from epanns.labels import audioset, fsd50k
from epanns.models.files.released import export_panns
from epanns.models.zoo import build_model

# Kinds of events -> classes that both data sets have, in the order of FSD50K.
_SHARED = [mid for mid in fsd50k().mids if mid in audioset().mids]
MID_OF = dict(zip(EVENTS, _SHARED, strict=False))
FSD50K_SECONDS = (0.7, 2.0, 6.0, 12.0)  # lengths of clips, in turn
_HEAD = ("# Segments csv created by panns_generated.py", "# num_ytids={0}, num_segs={0}", "# {1}")
_COLUMNS = "YTID, start_seconds, end_seconds, positive_labels"


WEIGHTS = "Cnn14_random.pth"


class Counts(NamedTuple):
    """Numbers of generated clips.

    Attributes:
        train: Of each data set's training clips.
        val: Of FSD50K's validation clips.
        test: Of each data set's test clips.
    """

    train: int
    val: int
    test: int


def generate(root: Path, counts: Counts, width: float) -> None:
    """Write ``AudioSet``, ``FSD50K`` and, last, `WEIGHTS` below a folder; files that exist are kept.

    Args:
        root: The folder.
        counts: Numbers of clips.
        width: Factor on Cnn14's widths.
    """
    settings = SyntheticSettings(clips=max(5, sum(counts)), classes=len(EVENTS), seconds=10.0)
    _write_audioset(root / "AudioSet", counts, settings)
    _write_fsd50k(root / "FSD50K", counts, settings)
    if not (path := root / WEIGHTS).exists():
        export_panns(_random_network(width, settings), path)


def _write_audioset(root: Path, counts: Counts, settings: SyntheticSettings) -> None:
    first = 0
    for split, clips in (("balanced_train", counts.train), ("eval", counts.test)):
        rows = []
        for index in range(first, first + clips):
            video_id = f"-{index:010d}"
            labels = _write_clip(root / f"{split}_segments" / f"Y{video_id}.wav", settings, index)
            rows.append(f'{video_id}, 0.000, 10.000, "{",".join(MID_OF[label] for label in labels)}"')
        head = [line.format(clips, _COLUMNS) for line in _HEAD]
        (root / f"{split}_segments.csv").write_text("\n".join([*head, *rows, ""]), encoding="utf-8")
        first += clips


def _write_fsd50k(root: Path, counts: Counts, settings: SyntheticSettings) -> None:
    name_of = dict(zip(fsd50k().mids, fsd50k().names, strict=True))
    tables: dict[str, list[list[str]]] = {"dev": [], "eval": []}
    for index in range(sum(counts)):
        split = "train" if index < counts.train else "val" if index < counts.train + counts.val else "eval"
        part = "eval" if split == "eval" else "dev"
        seconds = FSD50K_SECONDS[index % len(FSD50K_SECONDS)]
        drawn = replace(settings, seconds=seconds, sample_rate=44_100, seed=1)
        labels = _write_clip(root / f"FSD50K.{part}_audio" / f"{index}.wav", drawn, index)
        mids = [MID_OF[label] for label in labels]
        row = [str(index), ",".join(name_of[mid] for mid in mids), ",".join(mids)]
        tables[part].append(row if part == "eval" else [*row, split])
    truth = root / "FSD50K.ground_truth"
    truth.mkdir(exist_ok=True)
    columns = ["fname", "labels", "mids"]
    _write_rows(truth / "dev.csv", [[*columns, "split"], *tables["dev"]])
    _write_rows(truth / "eval.csv", [columns, *tables["eval"]])
    labels = fsd50k()
    vocabulary = enumerate(zip(labels.names, labels.mids, strict=True))
    _write_rows(truth / "vocabulary.csv", ([str(index), *pair] for index, pair in vocabulary))


def _write_clip(path: Path, settings: SyntheticSettings, index: int) -> tuple[str, ...]:
    """Write one clip unless it exists; return the kinds of its events."""
    samples, labels = draw_clip(settings, index)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, settings.sample_rate, subtype="PCM_16")
    return labels


def _write_rows(path: Path, rows: Iterable[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _random_network(width: float, settings: SyntheticSettings) -> torch.nn.Module:
    """Return a Cnn14 with random weights, whose batch-norm statistics are those of a clip, as after training."""
    torch.manual_seed(0)
    model = build_model("Cnn14", width=width, labels=audioset())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    clips = np.stack([draw_clip(settings, index)[0] for index in range(2)])
    with torch.no_grad():
        model.train()(torch.from_numpy(clips).float() / 32_767)
    return model.eval()


def main() -> None:
    """Read the command line and generate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    for name in Counts._fields:
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--width", type=float, default=1.0)
    asked = parser.parse_args()
    generate(asked.root, Counts(asked.train, asked.val, asked.test), asked.width)


if __name__ == "__main__":
    main()
