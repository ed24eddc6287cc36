"""Recovery ``distil:STEPS``: gradient steps toward the unpruned network's embedding and logits, without labels.

The steps are those of `epanns.pruning.recovery.descent`; `epanns.pruning.recovery.alignment` compares every layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import ClipSource
from epanns.pruning.embedding_channels import Places, SharedChannels, shared_channels
from epanns.pruning.recovery.descent import Descent, DescentSettings, RecoveryRun, descend

Outputs = tuple[Tensor, ...]  # embedding and logits, or logits alone


@dataclass(frozen=True)
class Distillation(Descent):
    """Result of `distil`.

    The loss is the mean of the squared errors of embedding and logits, each relative to its variance.

    Attributes:
        embedding_channels: Number of embedding channels compared; 0 where the logits alone were, because no plan
            relates the channels of two embeddings of different sizes.
    """

    embedding_channels: int


def distil(
    pruned: Tagger,
    dense: Tagger,
    clips: ClipSource,
    *,
    steps: int,
    seed: int = 0,
    plan: PruningPlan | None = None,
    run: RecoveryRun | None = None,
) -> Distillation:
    """Train a pruned network toward the unpruned one's embedding and logits, in place.

    Where pruning removed channels of the embedding itself, the kept channels are compared.

    Args:
        pruned: Made from `dense` and of the same classes; best after `refit_readers`.
        dense: The unpruned network; not touched.
        clips: Batches of waveforms ``(batch, samples)`` float in [-1, 1], all of one length: real sound, unlabelled, at
            least two clips. Every fifth clip is held out.
        steps: Number of steps, > 0.
        seed: Seed of the mixtures.
        plan: Leads from `dense` to `pruned`; by default the plans in the provenance of both relate their embeddings.
            Without any plan, embeddings of different sizes are not compared.
        run: Folder of the states, progress and log.

    Raises:
        PruningError: If the classes differ, there are too few clips or too many for memory, or a value is not finite.
            After this or any other error `pruned` is as it was.
        Interrupted: After a signal, if `run` has a folder.
    """
    require_same_classes(pruned, dense, before="distil")
    embedding = shared_channels(pruned, dense, plan)
    settings = DescentSettings(steps, seed, batch=16, part=4, rate=3e-4, crop_seconds=None)
    identity = {"method": "distil", "plan": None if plan is None else plan.digest}
    done = descend(
        pruned, dense, clips, _OutputDistance(pruned, dense, embedding), settings, identity=identity, run=run
    )
    pruned.provenance = pruned.provenance.with_operation("recover", method="distil", **done.settings(steps, seed))
    return Distillation(**vars(done), embedding_channels=embedding.channels)


def require_same_classes(pruned: Tagger, dense: Tagger, *, before: str) -> None:
    """Raise `PruningError` if the networks have different classes."""
    if (ours := pruned.spec.num_classes) != (wanted := dense.spec.num_classes):
        raise PruningError(f"the pruned network has {ours} classes, dense {wanted}: {before} before reset_classifier")


class _OutputDistance:
    """Mean of the squared errors of embedding and logits, each relative to its variance over the held-out clips."""

    def __init__(self, student: Tagger, teacher: Tagger, embedding: SharedChannels) -> None:
        self._student, self._teacher, self._embedding = student, teacher, embedding
        self._scale: Outputs = ()

    @torch.no_grad()
    def scale_to(self, batches: Iterator[Tensor]) -> None:
        """See `descent.Objective`."""
        wanted = [_outputs_of(self._teacher, clips, self._embedding.teacher) for clips in batches]
        variances = [torch.cat(parts).var(dim=0, correction=0).mean() for parts in zip(*wanted, strict=True)]
        self._scale = tuple(torch.where(each > 0, each, torch.ones_like(each)) for each in variances)

    def loss(self, waveform: Tensor) -> Tensor:
        """See `descent.Objective`."""
        with torch.no_grad():
            wanted = _outputs_of(self._teacher, waveform, self._embedding.teacher)
        found = _outputs_of(self._student, waveform, self._embedding.student)
        errors = [F.mse_loss(one, other) / size for one, other, size in zip(found, wanted, self._scale, strict=True)]
        return torch.stack(errors).mean()


def _outputs_of(model: Tagger, clips: Tensor, compared: Places) -> Outputs:
    """Return the compared channels of the embedding, if there are any, and the logits."""
    output = model(clips)
    embedding = output["embedding"][:, compared]
    return (embedding, output["clipwise_logits"]) if embedding.shape[1] else (output["clipwise_logits"],)
