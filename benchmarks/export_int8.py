"""Loss of mAP of YAMNet and LEAN in int8 on recorded sound: by plain quantisation and by `epanns export`.

    python benchmarks/export_int8.py path/to/yamnet_folded.npz path/to/ESC-50

A linear classifier and LEAN, both on YAMNet's frozen body, are trained on folds 1 to 3 of ESC-50. Fold 4 is used for
validation and calibration; whole clips of fold 5 are scored.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import record

from epanns.data.batches.dataset import PackDataset
from epanns.export.equalise import equalise
from epanns.export.graph import copy_of
from epanns.export.int8_clips import compare, inputs_of_clips, ranges_of
from epanns.export.network import to_onnx
from epanns.export.quantise import activations_of, quantised
from epanns.export.runtime import OnnxTagger
from epanns.models.files.load import load
from epanns.pruning.calibration_clips import split_rows

NETWORKS = ("YAMNet_linear", "LEAN")
TARGET = 0.02  # largest loss of mAP from float32
RECIPE = (
    *("--crop-seconds", 1, "--batch-size", 32, "--learning-rate", 1e-3, "--schedule", "cosine", "--mixup-alpha", 0),
    *("--no-spec-augment", "--iterations", 600, "--validate-every", 300),
)


def main() -> None:
    """Train both networks, quantise each with three methods, score the results, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("esc50", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack(arguments.esc50, folder)
        rows = {network: measured(network, arguments.weights, folder) for network in NETWORKS}
    record.save(
        "export_int8",
        what="`epanns export --int8` of networks on YAMNet's frozen body: mAP on ESC-50 (16 kHz), fold 5, 400 clips",
        against="the same networks in float32",
        target=f"at most {100 * TARGET:g} points below",
        met=all(row["exported"]["mAP"]["difference"] >= -TARGET for row in rows.values()),
        result={"headline": headline(rows), "rows": rows},
    )


def pack(root: Path, folder: Path) -> None:
    """Pack ESC-50, folds 1 to 3 as ``train``, 4 as ``val`` and 5 as ``test``."""
    manifest = folder / "manifest.csv"
    run("data", "esc50", root, "--out", manifest, "--val-fold", 4, "--test-fold", 5)
    for part in ("train", "val", "test"):
        run("pack", manifest, "--split", part, "--sample-rate", 16000, "--seconds", 5, "--out", folder / part)


def measured(network: str, weights: Path, folder: Path) -> dict[str, Any]:
    """Train and export a network; return the scores of the export and of `rounded`."""
    checkpoint, out = folder / network, folder / f"{network}.onnx_files"
    packs = ["--train", folder / "train", "--val", folder / "val"]
    run("train", network, "--yamnet", weights, *packs, *RECIPE, "--out", checkpoint)
    options = ["--int8", "--calibration", folder / "val", "--evaluate", folder / "test", "--latency", "--json"]
    report: dict[str, Any] = json.loads(run("export", checkpoint, "--out", out, *options))
    files = {file: {key: entry[key] for key in ("bytes", "latency_ms")} for file, entry in report["files"].items()}
    return {
        **rounded(checkpoint, folder),
        "exported": report["int8"]["evaluation"],
        "float32_activations": report["int8"]["float32_activations"],
        "files": files,
    }


def rounded(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Score the network with every tensor in int8, without (``plain``) and with equalised channel ranges."""
    model = load(checkpoint).eval()
    val, test = PackDataset([folder / "val"]), PackDataset([folder / "test"])
    inputs = list(inputs_of_clips(model, val, split_rows(len(val), 200, held_out=False)[0]))
    original = to_onnx(model)
    even = copy_of(original)
    equalise(even, inputs)
    found = {}
    for name, graph in (("plain", original), ("equalised", even)):
        int8 = quantised(graph, ranges_of(graph, activations_of(graph), inputs))
        pair = OnnxTagger(model, original), OnnxTagger(model, int8)
        found[name] = compare(*pair, test, range(len(test))).to_dict()
    return found


def run(*arguments: object) -> str:
    """Run a command of epanns and return its output."""
    command = [sys.executable, "-m", "epanns", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def headline(rows: dict[str, Any]) -> str:
    """Return the results of both networks in words."""
    return "; ".join(f"{network} {in_words(row)}" for network, row in rows.items())


def in_words(row: dict[str, Any]) -> str:
    """Return the results of one network in words."""
    ours, even, plain = (row[name]["mAP"] for name in ("exported", "equalised", "plain"))
    sizes = " -> ".join(f"{row['files'][name]['bytes'] / 1e6:.2f}" for name in ("model.onnx", "model.int8.onnx"))
    return (
        f"{ours['float32']:.3f} -> {ours['int8']:.3f} ({points(ours)} points; {points(even)} with every activation in "
        f"int8, {points(plain)} without equal ranges too; accuracy {points(row['exported']['accuracy'])}), {sizes} MB"
    )


def points(pair: dict[str, float]) -> str:
    """Return the change by int8 in points of mAP or accuracy."""
    return f"{100 * pair['difference']:+.1f}"


if __name__ == "__main__":
    main()
