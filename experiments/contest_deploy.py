"""Export networks of the comparison with LEAN to int8, score them: ``python experiments/contest_deploy.py SWEEP OUT``.

SWEEP is the folder of a sweep of ``lean_contest_*.toml``. For each finished trial, ``OUT/<trial>.json`` receives the
sizes of the exported files, the test scores of the int8 and the float32 network under LEAN's protocol, and the
float32 score on whole clips. With ``--latency``, the latency of one network of each row of the table is measured
instead, all networks in turn, and written to ``OUT/latency.json``; the machine must be idle. Requires the extra
``onnx``.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.complexity.latency import measure_latency
from epanns.data.batches.dataset import PackDataset
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export.export import INT8, Int8, export_network
from epanns.export.runtime import measure_onnx_latency
from epanns.models.files.load import load
from epanns.models.tagger import Tagger
from epanns.packages import versions

SECONDS = (1.0, 10.0)
ROUNDS = 5
THREADS = 1


def main() -> None:
    """Score the finished trials, or measure latencies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--latency", action="store_true")
    arguments = parser.parse_args()
    if arguments.latency:
        write_json(arguments.out / "latency.json", latencies_of(arguments.sweep))
        return
    for trial in finished_trials(arguments.sweep):
        file = arguments.out / f"{trial.name}.json"
        if not file.exists():
            write_json(file, deploy(trial))
            print(file)


def finished_trials(sweep: Path) -> Iterator[Path]:
    """Yield the folders of the finished trials in the order of the sweep."""
    for trial in json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["trials"]:
        folder = sweep / "trials" / trial
        if (folder / "result.json").exists():
            yield folder


def deploy(trial: Path) -> dict[str, Any]:
    """Return file sizes and scores of the network of a trial."""
    model, settings = network_of(trial), json.loads((trial / "config.json").read_text(encoding="utf-8"))
    base = settings["config"].get("base", settings["config"])
    data, protocol = base["data"], EvaluationProtocol(**base["evaluation"])
    train, test = (
        PackDataset(
            [Path(path) for path in settings["packs"][part]], sample_rate=data["sample_rate"], seconds=data["seconds"]
        )
        for part in ("train", "test")
    )
    with tempfile.TemporaryDirectory() as name:
        int8 = Int8(calibration=train, evaluation=test, protocol=protocol)
        report = export_network(model, Path(name) / "export", int8=int8)
    whole = EvaluationProtocol()
    return {
        "trial_id": trial.name,
        "bytes": {name: file["bytes"] for name, file in report["files"].items()},
        "int8": report["int8"]["evaluation"],
        "whole_clip_mAP": evaluate(predict(model, test, whole), test.labels, whole, bootstrap=0).mAP,
        "versions": report["versions"],
    }


def latencies_of(sweep: Path) -> dict[str, Any]:
    """Return the latency in ms of one clip for the first network of each row, in torch and in int8."""
    rows: dict[tuple[object, ...], Path] = {}
    for trial in finished_trials(sweep):
        record = json.loads((trial / "result.json").read_text(encoding="utf-8"))
        row = (record["model"], record["width"], record["criterion"], "yamnet_sha256" in record["config"])
        rows.setdefault(row, trial)
    found: dict[str, dict[str, list[float]]] = {trial.name: {} for trial in rows.values()}
    with tempfile.TemporaryDirectory() as name:
        networks = {}
        for trial in rows.values():
            networks[trial.name] = network_of(trial)
            calibration = PackDataset([Path(json.loads((trial / "config.json").read_text())["packs"]["train"][0])])
            export_network(networks[trial.name], Path(name) / trial.name, int8=Int8(calibration, clips=20))
        for _ in range(ROUNDS):
            for trial_id, network in networks.items():
                for key, milliseconds in latency_of(network, Path(name) / trial_id / INT8).items():
                    found[trial_id].setdefault(key, []).append(round(milliseconds, 3))
    return {
        "what": "median of one clip's times in each of several rounds, every network in turn",
        "threads": THREADS,
        "milliseconds": found,
        "versions": versions("torch", "onnxruntime"),
    }


def latency_of(network: Tagger, int8: Path) -> dict[str, float]:
    """Return the latency in ms for each clip length: torch with the front end, the int8 file without it."""
    found = {}
    for seconds in SECONDS:
        found[f"torch {seconds:g} s"] = measure_latency(network, seconds=seconds, threads=THREADS).median
        found[f"int8 {seconds:g} s"] = measure_onnx_latency(int8, network, seconds=seconds, threads=THREADS).median
    return found


def network_of(trial: Path) -> Tagger:
    """Return the network of the last stage of a trial."""
    return load(next(folder for folder in (trial / "finetuned", trial / "base") if folder.exists()))


if __name__ == "__main__":
    main()
