"""A tagger to a folder: the network as ONNX in float32 and int8, what its front end does, and proof of both."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper

from epanns import atomic
from epanns.data.dataset import PackDataset
from epanns.errors import CheckpointError, ConfigError
from epanns.evaluation.predict import refuse_unknown_lengths
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export.clips import inputs_of_clips, ranges_of, refuse_shared
from epanns.export.compare import compare
from epanns.export.equalise import equalise
from epanns.export.fragile import fragile_activations
from epanns.export.front_end import front_end_of
from epanns.export.graph import copy_of
from epanns.export.latency import measure_onnx_latency
from epanns.export.network import OPSET, OUTPUTS, to_onnx
from epanns.export.quantise import WEIGHTED, activations_of, quantised
from epanns.export.recurrent import with_dynamic_lstms
from epanns.export.tagger import OnnxTagger
from epanns.feedback import Progress
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger
from epanns.packages import versions
from epanns.pruning.calibration_clips import split_rows

FORMAT = "epanns-export/1"
FLOAT32, INT8 = "model.onnx", "model.int8.onnx"
TOLERANCE = 1e-4  # of a score, between torch and ONNX Runtime


@dataclass(frozen=True)
class Int8:
    """How a network is brought to int8.

    Attributes:
        calibration: Clips of the kind to be tagged, at the network's sample rate; their labels are not looked at.
        evaluation: Clips on which both networks are compared, none of which calibrates; None for every fifth clip of
            `calibration`, which then does not calibrate.
        clips: How many calibrate at most.
        equalise: Whether ranges of channels are evened out first.
        portable: Whether only ONNX's own operators are used: LSTMs then compute in float32, with int8 weights.
        protocol: How clips are heard, both to calibrate and to compare: whole, or in windows.
    """

    calibration: PackDataset
    evaluation: PackDataset | None = None
    clips: int = 200
    equalise: bool = True
    portable: bool = False
    protocol: EvaluationProtocol = EvaluationProtocol()


def export_network(
    model: Tagger,
    out: Path,
    *,
    int8: Int8 | None = None,
    latency_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write ``model.onnx``, ``front_end.json``, ``labels.csv``, ``export.json`` and, if asked, ``model.int8.onnx``.

    Args:
        model: Stays as it is.
        out: Folder, which must not exist.
        int8: How to make the int8 file too.
        latency_threads: Time clips of 1 s and 10 s through each file, on so many CPU threads; None for no timing.
        progress: Told the clips compared and in all.

    Returns:
        What ``export.json`` holds: files with sizes and checksums, the largest difference between torch and ONNX
        Runtime, and for int8 what was done and how both networks agree.

    Raises:
        ConfigError: If the network cannot be exported, `out` is named as a file, or the clips do not fit.
        CheckpointError: If the network's scores are not finite, or ONNX Runtime's are not torch's.
        PackError: If a clip that calibrates judges too.
        OutputError: If `out` exists.
    """
    if out.suffix == ".onnx":
        raise ConfigError(f"--out {out}: a folder is written, {FLOAT32} and what it needs: name a folder")
    atomic.refuse_existing(out)
    clips = None if int8 is None else _clips(model, int8)
    model = copy.deepcopy(model).cpu().eval()
    original = to_onnx(model)
    describe_in(original, model)
    report: dict[str, Any] = {
        "format": FORMAT,
        "model": model.spec.name,
        "sha256": model.provenance.sha256,
        "opset": OPSET,
        "inputs": front_end_of(model)["inputs"],
        "outputs": list(OUTPUTS),
        "n_params_folded": count_folded(original),
        "parity": parity_of(model, original),
    }
    files = {FLOAT32: original}
    if int8 is not None and clips is not None:
        files[INT8], report["int8"] = _int8(model, original, int8, clips, progress)
    with atomic.new_folder(out) as folder:
        report["files"] = {name: _save(graph, folder / name) for name, graph in files.items()}
        if latency_threads is not None:
            for name, file in report["files"].items():
                file["latency_ms"] = _latencies(folder / name, model, latency_threads)
        report["versions"] = versions("torch", "onnx", "onnxruntime", "onnxscript", "numpy")
        (folder / "labels.csv").write_text(model.labels.to_csv(), encoding="utf-8", newline="\n")
        atomic.write_json(folder / "front_end.json", front_end_of(model))
        atomic.write_json(folder / "export.json", report)
    return report


def count_folded(graph: onnx.ModelProto) -> int:
    """Return how many float32 numbers a graph holds: weights, biases and what batch norms became."""
    floats = [held for held in graph.graph.initializer if held.data_type == onnx.TensorProto.FLOAT and held.dims]
    return sum(int(np.prod(held.dims, dtype=np.int64)) for held in floats)


def layers_reading(graph: onnx.ModelProto, name: str) -> list[str]:
    """Return the names of the layers with weights that read a tensor."""
    readers = [node for node in graph.graph.node if node.op_type in WEIGHTED and node.input[0] == name]
    return [node.input[1].removesuffix(".weight") for node in readers]


def describe_in(graph: onnx.ModelProto, model: Tagger) -> None:
    """Write into a graph what somebody who has nothing but the file needs."""
    told = {
        "format": FORMAT,
        "model": model.spec.name,
        "sample_rate": str(model.spec.front_end.sample_rate),
        "minimum_samples": str(model.minimum_samples),
        "labels": json.dumps(model.labels.names, ensure_ascii=False),
        "front_end": json.dumps(front_end_of(model), ensure_ascii=False),
    }
    helper.set_model_props(graph, told)


def _save(graph: onnx.ModelProto, path: Path) -> dict[str, Any]:
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())
    return {"bytes": path.stat().st_size, "sha256": atomic.sha256_of(path)}


def parity_of(model: Tagger, graph: onnx.ModelProto) -> dict[str, Any]:
    """Compare torch and ONNX Runtime on noise: one clip as short as can be, and three longer ones.

    Raises:
        CheckpointError: If torch's outputs are not finite, or ONNX Runtime's scores are not theirs.
    """
    shortest = model.minimum_samples
    longer = shortest + 2 * model.spec.front_end.sample_rate + 77
    largest = dict.fromkeys(OUTPUTS, 0.0)
    exported = OnnxTagger(model, graph)
    generator = torch.Generator().manual_seed(0)
    with evaluation_mode(model), torch.no_grad():
        for clips, samples in ((1, shortest), (3, longer)):
            waveform = 0.2 * torch.randn(clips, samples, generator=generator)
            expected, found = (dict(network(waveform)) for network in (model, exported))
            _require_finite(model, expected)
            for name in OUTPUTS:  # np.maximum keeps the NaN that max() would lose
                largest[name] = float(np.maximum(largest[name], (found[name] - expected[name]).abs().max().item()))
    if not largest["clipwise_output"] <= TOLERANCE:
        raise CheckpointError(
            f"{model.spec.name}: ONNX Runtime's scores differ from torch's by {largest['clipwise_output']:.2g}, where "
            f"{TOLERANCE:g} is allowed for rounding: nothing is written; please report it as a bug"
        )
    return {"clips": [1, 3], "samples": [shortest, longer], "largest_difference": largest}


def _require_finite(model: Tagger, outputs: dict[str, torch.Tensor]) -> None:
    if not all(outputs[name].isfinite().all() for name in OUTPUTS):
        raise CheckpointError(
            f"{model.spec.name} gives scores that are not finite: its weights are damaged; nothing is written: "
            "copy the checkpoint again, or make it anew"
        )


def _clips(model: Tagger, asked: Int8) -> tuple[list[int], list[int]]:
    """Return the clips that calibrate and those that judge, of packs at the network's rate."""
    judging_pack = asked.calibration if asked.evaluation is None else asked.evaluation
    for dataset in (asked.calibration, judging_pack):
        _require_rate(model, dataset)
        refuse_unknown_lengths(dataset, asked.protocol)
    n_clips = len(asked.calibration)
    calibrating, judging = split_rows(n_clips, asked.clips, held_out=asked.evaluation is None)
    if asked.evaluation is None:
        return calibrating, judging
    refuse_shared(asked.calibration, calibrating, asked.evaluation)
    return calibrating, list(range(len(asked.evaluation)))


def _int8(
    model: Tagger,
    original: onnx.ModelProto,
    asked: Int8,
    clips: tuple[list[int], list[int]],
    progress: Progress | None,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the int8 graph, and what was done and how it compares."""
    calibrating, judging = clips
    judging_pack = asked.calibration if asked.evaluation is None else asked.evaluation
    batches = list(inputs_of_clips(model, asked.calibration, calibrating, asked.protocol))
    graph = copy_of(original)
    equalised = equalise(graph, batches) if asked.equalise else ()
    ranges = ranges_of(graph, activations_of(graph), batches)
    left_out, faithful = fragile_activations(graph, ranges, batches)
    kept = {name: ends for name, ends in ranges.items() if name not in left_out}
    made = quantised(graph if asked.portable else with_dynamic_lstms(graph), kept)
    pair = OnnxTagger(model, original), OnnxTagger(model, made)
    compared = compare(*pair, judging_pack, judging, asked.protocol, progress).to_dict()
    return made, {
        "weights": "int8, symmetric, a scale for each output channel",
        "activations": "int8, asymmetric, a scale for each tensor, smallest and largest value of the calibration clips",
        "equalised_layers": list(equalised),
        "float32_activations": {name: layers_reading(graph, name) for name in left_out},
        "lstms": "int8 weights, float32 arithmetic" if asked.portable else "int8, ranges found in each call",
        "calibration": asked.calibration.identity() | {"clips_used": len(calibrating), "logit_correlation": faithful},
        "protocol": asked.protocol.describe(),
        "evaluation": judging_pack.identity() | _relation(asked, clips) | compared,
    }


def _relation(asked: Int8, clips: tuple[list[int], list[int]]) -> dict[str, bool]:
    """Return how the clips that judge relate to those that calibrate; clips on both sides were refused before."""
    calibrating, judging = clips
    is_one_pack = asked.evaluation is None
    return {
        "held_out_of_calibration": not is_one_pack or set(calibrating).isdisjoint(judging),
        "of_calibration_pack": is_one_pack,
    }


def _latencies(file: Path, model: Tagger, threads: int) -> dict[str, Any]:
    dtype = "int8" if file.name == INT8 else "float32"
    measured = (measure_onnx_latency(file, model, seconds=seconds, threads=threads, dtype=dtype) for seconds in (1, 10))
    return {f"{seconds} s": latency.to_dict() for seconds, latency in zip((1, 10), measured, strict=True)}


def _require_rate(model: Tagger, dataset: PackDataset) -> None:
    rate = model.spec.front_end.sample_rate
    if dataset.sample_rate != rate:
        raise ConfigError(
            f"the pack {dataset.dataset_name} holds {dataset.sample_rate} Hz, {model.spec.name} hears {rate} Hz: "
            f"pack the clips with --sample-rate {rate}"
        )
