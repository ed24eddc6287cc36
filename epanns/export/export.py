"""A tagger to a folder: ONNX in float32 and int8, the front end as data, and a comparison with torch."""

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
from epanns.data.batches.dataset import PackDataset
from epanns.errors import CheckpointError, ConfigError
from epanns.evaluation.predict import refuse_unknown_lengths
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export.equalise import equalise
from epanns.export.graph import copy_of
from epanns.export.int8_clips import compare, inputs_of_clips, ranges_of, refuse_shared
from epanns.export.network import OPSET, OUTPUTS, front_end_of, to_onnx
from epanns.export.quantise import WEIGHTED, activations_of, fragile_activations, quantised, with_dynamic_lstms
from epanns.export.runtime import OnnxTagger, measure_onnx_latency
from epanns.feedback import Progress
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger
from epanns.packages import versions
from epanns.pruning.calibration_clips import split_rows

FORMAT = "epanns-export/1"
FLOAT32, INT8 = "model.onnx", "model.int8.onnx"
TOLERANCE = 1e-4  # largest difference of a score between torch and ONNX Runtime


@dataclass(frozen=True)
class Int8:
    """How a network is quantised to int8.

    Attributes:
        calibration: Clips like those to be tagged, at the network's sample rate; their labels are not used.
        evaluation: Clips on which both networks are compared, none of which calibrates; None for every fifth clip of
            `calibration`, which is then held out of calibration.
        clips: Largest number of clips that calibrate.
        equalise: Whether the ranges of channels are equalised first.
        portable: Whether only ONNX's own operators are used: LSTMs then compute in float32, with int8 weights.
        protocol: Whole clips or windows, for calibration and comparison.
    """

    calibration: PackDataset
    evaluation: PackDataset | None = None
    clips: int = 200
    equalise: bool = True
    portable: bool = False
    protocol: EvaluationProtocol = EvaluationProtocol()

    @property
    def compared(self) -> PackDataset:
        """The pack on which both networks are compared."""
        return self.calibration if self.evaluation is None else self.evaluation


def export_network(
    model: Tagger,
    out: Path,
    *,
    int8: Int8 | None = None,
    latency_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write ``model.onnx``, ``front_end.json``, ``labels.csv``, ``export.json`` and optionally ``model.int8.onnx``.

    Args:
        model: Network; it is left unchanged.
        out: Folder, which must not exist.
        int8: Settings of the int8 file; None for no int8 file.
        latency_threads: Number of CPU threads with which clips of 1 s and 10 s are timed; None for no timing.
        progress: Called with the number of clips compared and their total.

    Returns:
        The content of ``export.json``: files with sizes and checksums, the largest difference between torch and ONNX
        Runtime, and for int8 the settings and the agreement of both networks.

    Raises:
        ConfigError: If the network cannot be exported, `out` is named like a file, or the clips do not fit.
        CheckpointError: If the network's scores are not finite, or ONNX Runtime's differ from torch's.
        PackError: If a clip that calibrates is also in the evaluation pack.
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
        report["files"] = {}
        for name, graph in files.items():
            onnx.checker.check_model(graph)
            path = folder / name
            path.write_bytes(graph.SerializeToString())
            report["files"][name] = {"bytes": path.stat().st_size, "sha256": atomic.sha256_of(path)}
        if latency_threads is not None:
            for name, file in report["files"].items():
                dtype = "int8" if name == INT8 else "float32"
                file["latency_ms"] = {
                    f"{seconds} s": measure_onnx_latency(
                        folder / name, model, seconds=seconds, threads=latency_threads, dtype=dtype
                    ).to_dict()
                    for seconds in (1, 10)
                }
        report["versions"] = versions("torch", "onnx", "onnxruntime", "onnxscript", "numpy")
        (folder / "labels.csv").write_text(model.labels.to_csv(), encoding="utf-8", newline="\n")
        atomic.write_json(folder / "front_end.json", front_end_of(model))
        atomic.write_json(folder / "export.json", report)
    return report


def count_folded(graph: onnx.ModelProto) -> int:
    """Return the number of float32 constants of a graph: weights, biases, and factors and offsets of batch norms."""
    floats = [held for held in graph.graph.initializer if held.data_type == onnx.TensorProto.FLOAT and held.dims]
    return sum(int(np.prod(held.dims, dtype=np.int64)) for held in floats)


def layers_reading(graph: onnx.ModelProto, name: str) -> list[str]:
    """Return the names of the layers with weights that read a tensor."""
    readers = [node for node in graph.graph.node if node.op_type in WEIGHTED and node.input[0] == name]
    return [node.input[1].removesuffix(".weight") for node in readers]


def describe_in(graph: onnx.ModelProto, model: Tagger) -> None:
    """Write the front end, the labels and the sample rate into the metadata of a graph."""
    metadata = {
        "format": FORMAT,
        "model": model.spec.name,
        "sample_rate": str(model.spec.front_end.sample_rate),
        "minimum_samples": str(model.minimum_samples),
        "labels": json.dumps(model.labels.names, ensure_ascii=False),
        "front_end": json.dumps(front_end_of(model), ensure_ascii=False),
    }
    helper.set_model_props(graph, metadata)


def parity_of(model: Tagger, graph: onnx.ModelProto) -> dict[str, Any]:
    """Compare torch and ONNX Runtime on noise: one clip of the shortest length, and three longer clips.

    Raises:
        CheckpointError: If torch's outputs are not finite, or ONNX Runtime's scores differ from them.
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
            if not all(expected[name].isfinite().all() for name in OUTPUTS):
                raise CheckpointError(
                    f"{model.spec.name} gives scores that are not finite: its weights are damaged; nothing is written: "
                    "copy the checkpoint again, or train it again"
                )
            for name in OUTPUTS:  # np.maximum keeps the NaN that max() would lose
                largest[name] = float(np.maximum(largest[name], (found[name] - expected[name]).abs().max().item()))
    if not largest["clipwise_output"] <= TOLERANCE:
        raise CheckpointError(
            f"{model.spec.name}: ONNX Runtime's scores differ from torch's by {largest['clipwise_output']:.2g}, where "
            f"{TOLERANCE:g} is allowed for rounding: nothing is written; please report it as a bug"
        )
    return {"clips": [1, 3], "samples": [shortest, longer], "largest_difference": largest}


def _clips(model: Tagger, int8: Int8) -> tuple[list[int], list[int]]:
    """Check the packs, and return the clips that calibrate and the clips of the comparison."""
    rate = model.spec.front_end.sample_rate
    for dataset in (int8.calibration, int8.compared):
        if dataset.sample_rate != rate:
            raise ConfigError(
                f"the pack {dataset.dataset_name} holds {dataset.sample_rate} Hz, {model.spec.name} reads {rate} Hz: "
                f"pack the clips with --sample-rate {rate}"
            )
        refuse_unknown_lengths(dataset, int8.protocol)
    calibrating, compared = split_rows(len(int8.calibration), int8.clips, held_out=int8.evaluation is None)
    if int8.evaluation is not None:
        refuse_shared(int8.calibration, calibrating, int8.evaluation)
        compared = list(range(len(int8.evaluation)))
    return calibrating, compared


def _int8(
    model: Tagger,
    original: onnx.ModelProto,
    int8: Int8,
    clips: tuple[list[int], list[int]],
    progress: Progress | None,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the int8 graph, and its part of the report."""
    calibrating, compared = clips
    batches = list(inputs_of_clips(model, int8.calibration, calibrating, int8.protocol))
    graph = copy_of(original)
    equalised = equalise(graph, batches) if int8.equalise else ()
    ranges = ranges_of(graph, activations_of(graph), batches)
    in_float32, faithful = fragile_activations(graph, ranges, batches)
    kept = {name: ends for name, ends in ranges.items() if name not in in_float32}
    made = quantised(graph if int8.portable else with_dynamic_lstms(graph), kept)
    pair = OnnxTagger(model, original), OnnxTagger(model, made)
    is_one_pack = int8.evaluation is None
    return made, {
        "weights": "int8, symmetric, a scale for each output channel",
        "activations": "int8, asymmetric, a scale for each tensor, smallest and largest value of the calibration clips",
        "equalised_layers": list(equalised),
        "float32_activations": {name: layers_reading(graph, name) for name in in_float32},
        "lstms": "int8 weights, float32 arithmetic" if int8.portable else "int8, ranges found in each call",
        "calibration": int8.calibration.identity() | {"clips_used": len(calibrating), "logit_correlation": faithful},
        "protocol": int8.protocol.describe(),
        "evaluation": int8.compared.identity()
        | {
            "held_out_of_calibration": not is_one_pack or set(calibrating).isdisjoint(compared),
            "of_calibration_pack": is_one_pack,
        }
        | compare(*pair, int8.compared, compared, int8.protocol, progress).to_dict(),
    }
