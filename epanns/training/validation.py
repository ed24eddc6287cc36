"""The score that chooses the best checkpoint, and validation sets that cannot choose one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from epanns.data.batches.dataset import PackDataset
from epanns.distributed import broadcast, world_size
from epanns.errors import CheckpointError, ConfigError, TrainingError
from epanns.labels import DECISIVE_SCORES
from epanns.models.tagger import Tagger


@dataclass(frozen=True)
class Validation:
    """How the best checkpoint is chosen.

    Attributes:
        score: Function that scores a model and leaves it unchanged. The highest ``mAP`` decides or, for single-label
            networks, the highest ``accuracy``; between equal scores the lower ``validation_loss``, if there is one.
        data: Identity of the validation set, in JSON values: part of the run's identity.
        clips: The validation set; `finetune` logs a note if it cannot distinguish steps. None if it is unknown.
    """

    score: Callable[[Tagger], Mapping[str, float]]
    data: Mapping[str, Any]
    clips: PackDataset | None = None

    def scores_of(self, model: Tagger, raise_if_stopped: Callable[[], None]) -> Mapping[str, float]:
        """Return the scores of a model on rank 0, on all processes; refuse scores that cannot choose a step.

        Args:
            model: The model.
            raise_if_stopped: Called before each batch, and raises to end the scoring. With several processes it is not
                called, since they stop together, after the scoring.

        Raises:
            ConfigError: If the deciding score is missing.
            TrainingError: If the deciding score, or an output of the network, is not finite.
        """
        hook = model.register_forward_pre_hook(lambda *_: raise_if_stopped() if world_size() == 1 else None)
        try:
            scores: dict[str, float] = broadcast(dict(self.score(model)))
        except CheckpointError as error:  # the outputs are not finite
            raise TrainingError(
                f"validation: {error}, with --fresh or another --out: the same command stops here again"
            ) from error
        finally:
            hook.remove()
        decisive = DECISIVE_SCORES[model.spec.task]
        if decisive not in scores:
            raise ConfigError(
                f"the validation gives {', '.join(scores)}: a {model.spec.task} network is chosen by {decisive}, "
                "return it too"
            )
        if not math.isfinite(scores[decisive]):
            raise TrainingError(
                f"validation: {decisive} is {scores[decisive]}, which chooses no step: give validation clips that have "
                "classes"
            )
        return scores


def require_positives(clips: PackDataset) -> None:
    """Raise `ConfigError` if no validation clip has a class, so that no score exists."""
    if len(clips) and not clips.targets.counts().any():
        raise ConfigError(
            f"validation: none of the {len(clips):,} clips of {clips.dataset_name} has any of the "
            f"{len(clips.labels):,} classes: no step can be scored; give labelled clips (--val)"
        )


def indistinct(clips: PackDataset, task: str) -> str | None:
    """Return a note if the targets alone limit how well the score distinguishes steps, else None.

    A class that every clip has, or none has, contributes the same to the mAP at every step. If every clip has the same
    class, a network that gives every clip this class has the highest accuracy.
    """
    counts = clips.targets.counts()
    scored, constant = np.count_nonzero(counts), np.count_nonzero(counts == len(clips))
    if not constant:
        return None
    found = f"validation: {_in_every_clip(clips)}"
    remedy = "give validation clips with and without each class (--val)"
    if task == "single-label":
        return f"{found}: the accuracy is highest for a network that gives every clip this class; {remedy}"
    if constant < scored:
        rest = f"{scored - constant:,} of {scored:,} scored classes choose the step"
        return f"{found}: their average precision is 1 at every step, so {rest}; {remedy}"
    return (
        f"{found}: the mAP is 1 at every step and cannot distinguish steps, so the lowest validation loss chooses the "
        f"step; {remedy}"
    )


def constant_map(clips: PackDataset) -> str | None:
    """Return why the mAP on these clips is 1 for any network; None if it varies."""
    counts = clips.targets.counts()
    if not counts.any() or not set(counts.tolist()) <= {0, len(clips)}:
        return None
    return f"{_in_every_clip(clips)}: the mAP of any network is 1"


def _in_every_clip(clips: PackDataset) -> str:
    """Return which classes every clip has and, if no clip has the other classes, this too."""
    counts, total = clips.targets.counts(), len(clips)
    constant = np.flatnonzero(counts == total)
    first, many = clips.labels.names[constant[0]], len(constant)
    which = f"class {first!r} is" if many == 1 else f"{many:,} classes, first {first!r}, are"
    where = "the only clip" if total == 1 else f"every one of the {total:,} clips"
    absent = np.count_nonzero(counts == 0)
    rest = f", and the other {absent:,} in none" if absent and absent + many == len(counts) else ""
    return f"{which} in {where} of {clips.dataset_name}{rest}"
