"""Clips of packs: the ranges of tensors on calibration clips, and the agreement of int8 and float32 on other clips."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from epanns.audio.short_clips import repeat_to_minimum
from epanns.data.batches.compatibility import shared_clips
from epanns.data.batches.dataset import PackDataset
from epanns.errors import PackError
from epanns.evaluation.metrics import average_precision
from epanns.evaluation.predict import pieces_of, score_batch
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export.graph import Array, copy_of
from epanns.export.network import named_inputs
from epanns.export.runtime import Inputs, outputs_of
from epanns.feedback import Progress
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import HELD_OUT_EVERY

_BATCH_SIZE = 32  # windows in one forward pass at most


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


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same clips.

    Attributes:
        top1: Fraction of clips for which both networks have the highest score in the same class.
        largest_difference: Largest difference of two scores, in [0, 1].
        mean_difference: Mean difference of the scores.
        mAP: mAP of the original and of the other network, over classes with a positive clip; None without labels.
        accuracy: Fraction of clips whose highest score is of their class, of both networks; None where a clip has
            several classes.
    """

    clips: int
    top1: float
    largest_difference: float
    mean_difference: float
    mAP: tuple[float, float] | None  # noqa: N815
    accuracy: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; pairs have the keys ``float32``, ``int8`` and ``difference``."""
        values = asdict(self)
        for name in ("mAP", "accuracy"):
            if (pair := values[name]) is not None:
                values[name] = {"float32": pair[0], "int8": pair[1], "difference": pair[1] - pair[0]}
        return values


def compare(
    original: Tagger,
    other: Tagger,
    dataset: PackDataset,
    clips: Sequence[int],
    protocol: EvaluationProtocol | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Score the same clips with two networks; the labels are used only if the pack has the networks' classes."""
    scores: tuple[list[Array], list[Array]] = ([], [])
    with torch.no_grad():
        for done, clip in enumerate(clips, start=1):
            batch = dataset[clip]
            for network, found in zip((original, other), scores, strict=True):
                found.append(score_batch(network, batch, protocol or EvaluationProtocol(), _BATCH_SIZE).scores.numpy())
            if progress is not None:
                progress(done, len(clips))
    same_classes = dataset.labels.names == original.labels.names
    target = dataset.targets.dense(clips) if same_classes else None
    return comparison(np.concatenate(scores[0]), np.concatenate(scores[1]), target)


def comparison(ours: Array, theirs: Array, target: NDArray[np.bool_] | None) -> Comparison:
    """Compare the scores of two networks, ``(clips, classes)`` like `target`."""
    difference = np.abs(ours - theirs)
    labels = target if target is not None and target.any() else None
    classes = labels.argmax(axis=1) if labels is not None and (labels.sum(axis=1) == 1).all() else None

    def mean_ap(truth: NDArray[np.bool_], scores: Array) -> float:
        return float(np.nanmean(average_precision(truth, scores.astype(np.float64))))

    def accuracy(truth: NDArray[np.intp], scores: Array) -> float:
        return float((truth == scores.argmax(axis=1)).mean())

    return Comparison(
        clips=len(ours),
        top1=float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
        largest_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        mAP=None if labels is None else (mean_ap(labels, ours), mean_ap(labels, theirs)),
        accuracy=None if classes is None else (accuracy(classes, ours), accuracy(classes, theirs)),
    )
