"""Clips of packs as inputs of a graph, and the ranges of its tensors on calibration clips."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from epanns.audio.short_clips import repeat_to_minimum
from epanns.data.batches.compatibility import shared_clips
from epanns.data.batches.dataset import PackDataset
from epanns.errors import PackError
from epanns.evaluation.predict import pieces_of
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export.graph import copy_of
from epanns.export.network import named_inputs
from epanns.export.runtime import Inputs, outputs_of
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import HELD_OUT_EVERY


def inputs_of_clips(
    model: Tagger, dataset: PackDataset, clips: Iterable[int], protocol: EvaluationProtocol | None = None
) -> Iterator[Inputs]:
    """Yield the graph's inputs for each clip: the packed clip, or the batch of its windows."""
    rate = model.spec.front_end.sample_rate
    for clip in clips:
        (pieces,) = pieces_of(dataset[clip], protocol or EvaluationProtocol(), rate)
        with torch.no_grad():
            yield named_inputs(model, model.inputs_of(repeat_to_minimum(pieces, model.minimum_samples)))


def ranges_of(
    model: onnx.ModelProto, names: Sequence[str], batches: Iterable[Inputs]
) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of each tensor over all clips."""
    probe = copy_of(model)
    del probe.graph.output[:]
    ends = []
    for index, name in enumerate(names):
        for operation in ("ReduceMin", "ReduceMax"):
            end = f"{operation}_{index}"
            probe.graph.node.append(helper.make_node(operation, [name], [end], keepdims=0))
            probe.graph.output.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, []))
            ends.append(end)
    found = np.array([outputs for outputs in outputs_of(probe, batches, ends)] if ends else [], np.float64)
    return {
        name: (float(found[:, 2 * index].min()), float(found[:, 2 * index + 1].max()))
        for index, name in enumerate(names)
    }


def refuse_shared(calibration: PackDataset, calibrating: Sequence[int], evaluation: PackDataset) -> None:
    """Raise `PackError` if a clip that calibrates is in the evaluation pack too, by `shared_clips`.

    Clips of `calibration` outside the rows `calibrating` may be in both.
    """
    shared, how = shared_clips(calibration, evaluation)
    both = shared[np.isin(shared, calibration.clip_ids[np.asarray(calibrating)])]
    if len(both):
        raise PackError(
            f"{len(both)} of {len(evaluation)} evaluation clips of {evaluation.dataset_name} calibrate too{how}, "
            f"first {both[0].decode()!r}: int8 is compared on clips that did not calibrate; leave --evaluate out, then "
            f"every {HELD_OUT_EVERY}th clip of the calibration pack is held out, or give packs that do not overlap"
        )
