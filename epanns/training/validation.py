"""How checkpoints are chosen."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from epanns.distributed import broadcast, world_size
from epanns.errors import CheckpointError, ConfigError, TrainingError
from epanns.models.tagger import Tagger
from epanns.models.tasks import DECISIVE_SCORES


@dataclass(frozen=True)
class Validation:
    """How checkpoints are chosen.

    Attributes:
        score: Scores a model, which it must leave as it was. Its ``mAP`` decides or, for single-label networks, its
            ``accuracy``; the higher the better.
        data: What the scores are measured on, in JSON values: part of a run's identity.
    """

    score: Callable[[Tagger], Mapping[str, float]]
    data: Mapping[str, Any]

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
