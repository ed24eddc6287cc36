"""How checkpoints are chosen, and which validation clips cannot choose one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from epanns.data.dataset import PackDataset
from epanns.distributed import broadcast, world_size
from epanns.errors import CheckpointError, ConfigError, TrainingError
from epanns.labels import DECISIVE_SCORES
from epanns.models.tagger import Tagger


@dataclass(frozen=True)
class Validation:
    """How checkpoints are chosen.

    Attributes:
        score: Scores a model, which it must leave as it was. Its ``mAP`` decides or, for single-label networks, its
            ``accuracy``; the higher the better. Between equal scores the lower ``validation_loss`` decides, where it is
            given.
        data: What the scores are measured on, in JSON values: part of a run's identity.
        clips: The clips themselves; `finetune` reports where they cannot tell steps apart. None where they are unknown.
    """

    score: Callable[[Tagger], Mapping[str, float]]
    data: Mapping[str, Any]
    clips: PackDataset | None = None

    def scores_of(self, model: Tagger, obey: Callable[[], None]) -> Mapping[str, float]:
        """Score a model, as rank 0 does it, and refuse scores that choose nothing.

        Args:
            model: To be scored.
            obey: Called before each batch; what it raises ends the scoring there. Several processes stop together,
                after the scoring: there it is not called.

        Raises:
            ConfigError: If the score that decides is missing.
            TrainingError: If it is not finite, or the network's outputs are not.
        """
        hook = model.register_forward_pre_hook(lambda *_: obey() if world_size() == 1 else None)
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
    """Return a note where the targets alone keep the score from telling steps apart; None where they do not.

    A class that every clip has, or none has, adds the same to the mAP at every step. The accuracy on clips of one class
    is highest for a network that gives every clip this class.

    Args:
        clips: The validation set, with at least one positive.
        task: The network's: ``multi-label`` is chosen by mAP, ``single-label`` by accuracy.
    """
    counts = clips.targets.counts()
    scored, constant = np.count_nonzero(counts), np.count_nonzero(counts == len(clips))
    if not constant:
        return None
    found = f"validation: {_in_every_clip(clips)}"
    more = "give validation clips with and without each class (--val)"
    if task == "single-label":
        return f"{found}: the accuracy is highest for a network that gives every clip this class; {more}"
    if constant < scored:
        rest = f"{scored - constant:,} of {scored:,} scored classes choose the step"
        return f"{found}: their average precision is 1 at every step, so {rest}; {more}"
    return (
        f"{found}: the mAP is 1 at every step and cannot tell steps apart, so the lowest validation loss chooses the "
        f"step; {more}"
    )


def constant_map(clips: PackDataset) -> str | None:
    """Return which classes make the mAP of scored clips 1 whatever a network gives; None where the mAP varies."""
    counts = clips.targets.counts()
    if not counts.any() or not set(counts.tolist()) <= {0, len(clips)}:
        return None
    return f"{_in_every_clip(clips)}: the mAP is 1 whatever a network gives"


def _in_every_clip(clips: PackDataset) -> str:
    """Return in words which classes every clip has and, where no clip tells the others apart, that none has them."""
    counts, total = clips.targets.counts(), len(clips)
    constant = np.flatnonzero(counts == total)
    first, many = clips.labels.names[constant[0]], len(constant)
    which = f"class {first!r} is" if many == 1 else f"{many:,} classes, first {first!r}, are"
    where = "the only clip" if total == 1 else f"every one of the {total:,} clips"
    absent = np.count_nonzero(counts == 0)
    rest = f", and the other {absent:,} in none" if absent and absent + many == len(counts) else ""
    return f"{which} in {where} of {clips.dataset_name}{rest}"
