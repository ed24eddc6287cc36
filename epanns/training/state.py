"""Everything a training run needs to go on where it was, in one file that is replaced atomically."""

from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from epanns.atomic import replacing
from epanns.errors import CheckpointError
from epanns.models.tagger import Tagger
from epanns.pruning.optimizers import check_optimizer

FORMAT = "epanns-training-state/1"


@dataclass
class TrainingState:
    """Counters of a run; weights and moments live in the model and the optimizer.

    No random state is kept: every draw of step k is a pure function of the seed and of k.

    Attributes:
        step: Optimisation steps done.
        best_step: Step of the best validation, or -1.
        best_score: Its mAP.
        loss_sum: Sum of the losses since the last validation.
        loss_count: Their number.
        seconds: Time spent so far, over all resumptions.
        history: One row per validation.
    """

    step: int = 0
    best_step: int = -1
    best_score: float = -1.0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path, model: Tagger, optimizer: torch.optim.Optimizer) -> None:
        """Write the state atomically; the file before it stays whole if the disk is full or the process dies.

        Raises:
            PruningError: If the optimizer is another network's.
        """
        check_optimizer(optimizer, model)
        with replacing(path) as partial:
            torch.save(
                {
                    "format": FORMAT,
                    "state": self.__dict__,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
                partial,
            )

    @classmethod
    def load(cls, path: Path, model: Tagger, optimizer: torch.optim.Optimizer) -> "TrainingState":
        """Read a state into `model` and `optimizer`.

        Raises:
            CheckpointError: If the file cannot be read or is of another network.
            PruningError: If the optimizer is another network's.
        """
        check_optimizer(optimizer, model)
        try:
            saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            if saved.get("format") != FORMAT:
                raise KeyError("format")
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            return cls(**saved["state"])
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{path}: this training state cannot be resumed ({reason}): run again with --fresh to start over"
            ) from error
