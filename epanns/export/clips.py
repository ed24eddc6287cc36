"""Clips of packs as the inputs of a graph, one clip at a time, and which of them calibrate and which judge."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from epanns.audio.short_clips import repeat_to_minimum
from epanns.data.compatibility import shared_clips
from epanns.data.dataset import PackDataset
from epanns.errors import ConfigError, PackError
from epanns.evaluation.predict import pieces_of
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export.network import named_inputs
from epanns.export.sessions import Inputs
from epanns.models.tagger import Tagger

HELD_OUT = 5  # every so manieth clip of a calibration pack judges, where no other pack does


def inputs_of_clips(
    model: Tagger, dataset: PackDataset, clips: Iterable[int], protocol: EvaluationProtocol | None = None
) -> Iterator[Inputs]:
    """Yield the graph's inputs for each clip: its row of the pack, or its windows side by side."""
    rate = model.spec.front_end.sample_rate
    for clip in clips:
        (pieces,) = pieces_of(dataset[clip], protocol or EvaluationProtocol(), rate)
        with torch.no_grad():
            yield named_inputs(model, model.inputs_of(repeat_to_minimum(pieces, model.minimum_samples)))


def calibration_clips(n_clips: int, most: int, *, held_out: bool) -> tuple[list[int], list[int]]:
    """Return the clips that calibrate, at most so many and spread over the pack, and those held out to judge.

    Raises:
        ConfigError: If there are too few.
    """
    judging = list(range(HELD_OUT - 1, n_clips, HELD_OUT)) if held_out else []
    rest = sorted({*range(n_clips)} - {*judging})
    if not rest or (held_out and not judging):
        needed = f"at least {HELD_OUT}, of which every {HELD_OUT}th judges" if held_out else "at least one"
        raise ConfigError(f"{n_clips} calibration clips: give {needed}, some hundreds if you can")
    step = max(1.0, len(rest) / most)
    return [rest[int(place * step)] for place in range(min(most, len(rest)))], judging


def refuse_shared(calibration: PackDataset, calibrating: Sequence[int], evaluation: PackDataset) -> None:
    """Raise `PackError` if a clip that calibrates is in the pack that judges; `shared_clips` says which are the same.

    Clips of `calibration` that are not among the rows `calibrating` may judge.
    """
    shared, told = shared_clips(calibration, evaluation)
    both = shared[np.isin(shared, calibration.clip_ids[np.asarray(calibrating)])]
    if len(both):
        raise PackError(
            f"{len(both)} of {len(evaluation)} evaluation clips of {evaluation.dataset_name} calibrate too{told}, "
            f"first {both[0].decode()!r}: int8 is compared on clips that did not calibrate; leave --evaluate out, then "
            f"every {HELD_OUT}th clip of the calibration pack is held out, or give packs that do not overlap"
        )
