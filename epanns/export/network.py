"""A tagger as an ONNX graph in float32: from what its front end gives to its scores.

The front end stays outside. In int8 its rounding would cost more than all layers together, ONNX's own Fourier
transform is hundreds of times slower than a library's, and phones have one of their own; `front_end.json` says what to
compute.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from epanns.errors import ConfigError
from epanns.export.fold import drop_idle, fold_batch_norms, fold_constants
from epanns.export.graph import Array, copy_of
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Features, Tagger

OPSET = 18
OUTPUTS = ("clipwise_output", "clipwise_logits", "embedding")
_OWN = "network."  # what torch's exporter puts before the names of a tagger's tensors


class _Backbone(nn.Module):
    """A tagger from its inputs to a tuple of outputs, as an exporter wants it."""

    def __init__(self, network: Tagger) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what `OUTPUTS` names, in that order."""
        output: Mapping[str, Any] = self.network.forward_inputs(inputs)
        return tuple(output[name] for name in OUTPUTS)


def input_names(model: Tagger) -> tuple[str, ...]:
    """Return what the graph's inputs are called, in the order of `Tagger.inputs_of`.

    ``waveform (batch, samples)``, ``logmel (batch, 1, time, mel)``, of LEAN ``(batch, windows, time, mel)`` and
    ``pieces (batch, windows, pieces, samples)`` of the waveform.
    """
    bins = model.spec.front_end.mel_bins
    shapes = model.input_shapes(model.minimum_samples)
    return tuple("waveform" if len(shape) == 2 else "logmel" if shape[-1] == bins else "pieces" for shape in shapes)


def named_inputs(model: Tagger, inputs: Features) -> dict[str, Array]:
    """Return what `Tagger.inputs_of` gives as a runtime takes it: name -> array."""
    return {name: np.ascontiguousarray(values) for name, values in zip(input_names(model), inputs, strict=True)}


def axis_names(model: Tagger) -> list[dict[int, str]]:
    """Return for each input the names of the axes that may have any length: clips, and what grows with a clip."""
    short = model.input_shapes(model.minimum_samples)
    long = model.input_shapes(model.minimum_samples + 4 * model.spec.front_end.sample_rate)
    named = []
    for kind, *shapes in zip(input_names(model), short, long, strict=True):
        grows = [axis for axis, (one, other) in enumerate(zip(*shapes, strict=True)) if one != other]
        said = {("waveform", 1): "samples", ("logmel", 2): "time"}
        named.append({0: "batch", **{axis: said.get((kind, axis), "windows") for axis in grows}})
    return named


def to_onnx(model: Tagger) -> onnx.ModelProto:
    """Return a network's graph, batch norms folded, for any number of clips of any length.

    Args:
        model: On the CPU; stays as it is and is exported in evaluation mode.

    Raises:
        ConfigError: If torch cannot export it.
    """
    # An odd length: torch's exporter takes divisions without a remainder for a rule.
    samples = 2 * max(model.minimum_samples, model.spec.front_end.sample_rate) + 3
    example = tuple(torch.zeros(2, *shape[1:]) for shape in model.input_shapes(samples))
    backbone = _Backbone(model)
    try:
        with evaluation_mode(backbone), _quiet():
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
    assert program is not None
    graph = copy_of(program.model_proto)
    fold_constants(graph)
    drop_idle(graph)
    fold_batch_norms(graph)
    _tidy(graph)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter says about itself: packages it does not find, functions it will change."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _tidy(model: onnx.ModelProto) -> None:
    """Give tensors the names they have in the network, and drop the exporter's notes, a tenth of a small file."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for names in (node.input, node.output):
            renamed = [name.removeprefix(_OWN) for name in names]
            del names[:]
            names.extend(renamed)
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        value.name = value.name.removeprefix(_OWN)
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.functions[:]
    model.graph.name = "tagger"
    model.producer_name, model.producer_version = "epanns", ""
