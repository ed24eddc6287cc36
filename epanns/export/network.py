"""A tagger as a float32 ONNX graph, from the output of the front end to the scores, and the front end as data.

The front end is not part of the graph: in int8 its rounding would cost more accuracy than all layers together, ONNX's
Fourier transform is hundreds of times slower than that of a library, and phones have their own. `front_end.json`
describes what a program has to compute.
"""

import copy
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from epanns.audio.efficientat_logmel import OFFSET, PRE_EMPHASIS, SCALE, SHIFT
from epanns.audio.frontend import PATCH_FRAMES, PATCH_HOP, FrontEndSpec
from epanns.errors import ConfigError
from epanns.export.graph import (
    Array,
    batch_norms_as_products,
    copy_of,
    fold_constants,
    remove_unit_poolings,
    simplify_names,
)
from epanns.models.families.yamnet import Yamnet
from epanns.models.layers.folding import fold_batch_norms
from epanns.models.tagger import Features, Tagger

OPSET = 18
OUTPUTS = ("clipwise_output", "clipwise_logits", "embedding")
_PREFIX = "network."  # torch's exporter puts it before the names of a tagger's tensors
_CONTENTS = {
    "waveform": "the samples",
    "logmel": "the log-mel of the samples",
    "pieces": "the samples of each window, in pieces that follow each other",
}


class _Backbone(nn.Module):
    """A tagger from its inputs to the tuple of outputs that `OUTPUTS` names, as torch's exporter needs it."""

    def __init__(self, network: Tagger) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the network."""
        output: Mapping[str, Any] = self.network.forward_inputs(inputs)
        return tuple(output[name] for name in OUTPUTS)


def input_names(model: Tagger) -> tuple[str, ...]:
    """Return the names of the graph's inputs, in the order of `Tagger.inputs_of`.

    ``waveform (batch, samples)``, ``logmel (batch, 1, time, mel)``, for LEAN ``(batch, windows, time, mel)``, and
    ``pieces (batch, windows, pieces, samples)`` of the waveform.
    """
    bins = model.spec.front_end.mel_bins
    shapes = model.input_shapes(model.minimum_samples)
    return tuple("waveform" if len(shape) == 2 else "logmel" if shape[-1] == bins else "pieces" for shape in shapes)


def named_inputs(model: Tagger, inputs: Features) -> dict[str, Array]:
    """Return the output of `Tagger.inputs_of` as NumPy arrays by the names of the graph's inputs."""
    return {name: np.ascontiguousarray(values) for name, values in zip(input_names(model), inputs, strict=True)}


def axis_names(model: Tagger) -> list[dict[int, str]]:
    """Return for each input the names of the axes of variable length: the batch, and those that grow with a clip."""
    short = model.input_shapes(model.minimum_samples)
    long = model.input_shapes(model.minimum_samples + 4 * model.spec.front_end.sample_rate)
    known = {("waveform", 1): "samples", ("logmel", 2): "time"}
    named = []
    for kind, *shapes in zip(input_names(model), short, long, strict=True):
        growing = [axis for axis, (one, other) in enumerate(zip(*shapes, strict=True)) if one != other]
        named.append({0: "batch", **{axis: known.get((kind, axis), "windows") for axis in growing}})
    return named


def to_onnx(model: Tagger) -> onnx.ModelProto:
    """Return the graph of a network for any number of clips of any length, with batch norms folded.

    Args:
        model: Network on the CPU; it is left unchanged and exported in evaluation mode.

    Raises:
        ConfigError: If torch cannot export the network.
    """
    # An odd length: torch's exporter generalises a division without remainder to all lengths.
    samples = 2 * max(model.minimum_samples, model.spec.front_end.sample_rate) + 3
    example = tuple(torch.zeros(2, *shape[1:]) for shape in model.input_shapes(samples))
    backbone = _Backbone(copy.deepcopy(model).eval())
    fold_batch_norms(backbone.network)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # silent about missing optional packages and deprecated functions
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                backbone,
                example,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=list(input_names(model)),
                output_names=list(OUTPUTS),
                dynamic_shapes=(tuple(axis_names(model)),),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason, *_ = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"{model.spec.name} cannot be exported by torch {torch.__version__}: {reason}") from error
    finally:
        logger.setLevel(level)
    assert program is not None
    graph = copy_of(program.model_proto)
    fold_constants(graph)
    remove_unit_poolings(graph)
    batch_norms_as_products(graph)
    simplify_names(graph, _PREFIX)
    return graph


def front_end_of(model: Tagger) -> dict[str, Any]:
    """Return the content of ``front_end.json``: how the inputs of the graph are computed from samples."""
    spec = model.spec.front_end
    shapes = model.input_shapes(model.minimum_samples)
    names, axes = input_names(model), axis_names(model)
    is_yamnet = isinstance(model, Yamnet)
    described: dict[str, Any] = {
        "sample_rate": spec.sample_rate,
        "channels": 1,
        "samples_between": [-1, 1],
        "minimum_samples": model.minimum_samples,
        "short_clips": "followed by zeros until whole patches end with them, as longer clips too"
        if is_yamnet
        else "repeated from their start up to minimum_samples",
        "inputs": [
            {
                "name": name,
                "shape": [variable.get(axis, length) for axis, length in enumerate(shape)],
                "dtype": "float32",
                "holds": _CONTENTS[name],
            }
            for name, shape, variable in zip(names, shapes, axes, strict=True)
        ],
    }
    if "pieces" in names or any("windows" in variable.values() for variable in axes):
        described["windows"] = {
            "samples": spec.sample_rate,
            "hop": spec.sample_rate // 2,
            "last": "shifted back to end with the clip",
            "logmel_of_the_first": spec.patch_samples,
        }
    if "logmel" in names:
        described["logmel"] = _logmel(spec)
    return described


def _logmel(spec: FrontEndSpec) -> dict[str, Any]:
    """Return the definition of the log-mel of a family."""
    transform = {
        "window": "hann, periodic",
        "window_size": spec.window_size,
        "fft_size": spec.fft_size,
        "hop_size": spec.hop_size,
        "mel_bins": spec.mel_bins,
        "fmin": spec.fmin,
        "fmax": spec.fmax,
    }
    if spec.is_yamnet:
        return {
            **transform,
            "centred": False,
            "padding": "none; the window is followed by zeros up to fft_size",
            "spectrum": "magnitude",
            "mel_scale": "htk: 1127 * ln(1 + f / 700)",
            "mel_triangles": "linear in mel, of height 1; the bin of 0 Hz is left out",
            "level": "ln(mel + 0.001)",
            "patch_frames": PATCH_FRAMES,
            "patch_hop": PATCH_HOP,
        }
    if spec.kind == "efficientat":
        return {
            **transform,
            "window": "hann, symmetric",
            "pre_emphasis": PRE_EMPHASIS,  # x[n] - .97 x[n - 1], from the second sample on
            "centred": True,
            "padding": "reflect by fft_size / 2; the window is in the middle of the transform, between zeros",
            "spectrum": "squared magnitude",
            "mel_scale": "htk: 1127 * ln(1 + f / 700)",
            "mel_triangles": "linear in mel, of height 1",
            "level": f"(ln(mel + {OFFSET}) + {SHIFT}) / {SCALE:g}",
        }
    return {
        **transform,
        "centred": True,
        "padding": "reflect",
        "spectrum": "squared magnitude",
        "mel_scale": "slaney",
        "mel_triangles": "linear in Hz, of equal area (slaney)",
        "level": "10 * log10(max(mel, 1e-10))",
    }
