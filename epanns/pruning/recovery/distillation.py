"""Recovery ``distil:STEPS``: gradient descent toward the unpruned network's outputs, without labels.

Four measures make it safe with few clips: batch-norm statistics are frozen, the learning rate is small and decays to
zero, every step uses new mixtures of two clips, and held-out clips choose the weights: the best ones on the held-out
clips are kept, or those from before the first step if no step improved on them.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode, requires_grad_restored
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import CalibrationClips, ClipSource, is_held_out, refuse_too_few
from epanns.pruning.embedding_channels import Places, SharedChannels, shared_channels
from epanns.seeding import numpy_generator

Outputs = tuple[Tensor, ...]  # embedding and logits, or logits alone

_BATCH = 16  # mixtures in a step
_RATE = 3e-4  # Adam's, at its highest
_EVALUATIONS = 10  # on the held-out clips
MOST_HELD_BYTES = 1 << 30  # of clips in 16 bit


@dataclass(frozen=True)
class Distillation:
    """Result of `distil`.

    Attributes:
        clips: Number of calibration clips, held-out ones included.
        steps: Number of optimisation steps.
        best_step: The step whose weights are kept; 0 for the weights from before the first step.
        before: Loss on held-out clips before the first step: the mean of the squared errors of embedding and logits,
            each relative to its variance.
        after: The same with the weights that are kept.
        embedding_channels: Number of embedding channels compared; 0 where the logits alone were, because no plan
            relates the channels of two embeddings of different sizes.
    """

    clips: int
    steps: int
    best_step: int
    before: float
    after: float
    embedding_channels: int


def distil(
    pruned: Tagger,
    dense: Tagger,
    clips: ClipSource,
    *,
    steps: int,
    seed: int = 0,
    plan: PruningPlan | None = None,
    on_step: Callable[[int, float], None] | None = None,
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
        on_step: Called after each step with its number and its loss; an exception ends the run.

    Raises:
        PruningError: If the classes differ, there are too few clips or too many for memory, or a value is not finite.
            After this or any other error `pruned` is as it was.
    """
    if steps < 1:
        raise PruningError(f"{steps} steps of distillation: give at least 1")
    if (ours := pruned.spec.num_classes) != (wanted := dense.spec.num_classes):
        raise PruningError(f"the pruned network has {ours} classes, dense {wanted}: distil before reset_classifier")
    mixing = _MixedClips(CalibrationClips.of(clips), pruned)
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    run = _Run(pruned, dense, mixing, seed, shared_channels(pruned, dense, plan))
    try:
        with _trainable(pruned), evaluation_mode(dense):
            result = run.descend(steps, on_step)
    except BaseException:
        pruned.load_state_dict(before)
        raise
    settings: dict[str, Any] = {"clips": result.clips, "steps": steps, "seed": seed, "best_step": result.best_step}
    settings["held_out"] = {"before": result.before, "after": result.after}
    pruned.provenance = pruned.provenance.with_operation("recover", method="distil", **settings)
    return result


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """Make every parameter trainable in evaluation mode, in which batch norms keep their statistics; restore both."""
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model), requires_grad_restored(model):
        model.requires_grad_(True)
        try:
            yield
        finally:
            model.zero_grad(set_to_none=True)


class _MixedClips:
    """Calibration clips in memory, in 16 bit as in packs."""

    def __init__(self, clips: CalibrationClips, student: Tagger) -> None:
        self._device = next(student.parameters()).device
        held: list[Tensor] = []
        for waveform in clips.waveforms(student):
            if held and waveform.shape[1] != held[0].shape[1]:
                raise PruningError(
                    f"calibration clips of {held[0].shape[1]} and {waveform.shape[1]} samples: distillation mixes "
                    "them, so give clips of one length"
                )
            if not bool(waveform.isfinite().all()):
                raise PruningError("calibration clips are not finite; look for bad clips")
            held.append((waveform * 32_767).round().clamp(-32_768, 32_767).to(torch.int16))
            if sum(part.numel() for part in held) * 2 > MOST_HELD_BYTES:
                raise PruningError("distillation holds its clips: more than 1 GiB in 16 bit, give fewer")
        samples = torch.cat(held) if held else torch.empty(0, 0)
        self.total = len(samples)
        refuse_too_few(self.total)
        is_judging = is_held_out(0, self.total)
        self._fitted, self._held_out = samples[~is_judging], samples[is_judging]

    def mixtures(self, seed: int, step: int) -> Tensor:
        """Return a step's clips, ``(batch, samples)``: weighted sums of two, rolled to a random start."""
        generator = numpy_generator("distil", seed, step)
        first, second = generator.integers(len(self._fitted), size=(2, _BATCH))
        weight = torch.from_numpy(generator.random(_BATCH)).float()[:, None]
        mixed = self._floats(self._fitted[first]) * weight + self._floats(self._fitted[second]) * (1 - weight)
        starts = generator.integers(mixed.shape[1], size=_BATCH)
        rolled = [torch.roll(clip, int(start)) for clip, start in zip(mixed, starts, strict=True)]
        return torch.stack(rolled).to(self._device)

    def held_out(self) -> Iterator[Tensor]:
        """Yield the held-out clips unmixed, a few at a time."""
        return (self._floats(some).to(self._device) for some in torch.split(self._held_out, _BATCH))

    def _floats(self, clips: Tensor) -> Tensor:
        return clips.float() / 32_767


class _Run:
    """Student, teacher and clips, and the distance between the outputs of the two networks."""

    def __init__(
        self, student: Tagger, teacher: Tagger, clips: _MixedClips, seed: int, embedding: SharedChannels
    ) -> None:
        self._student, self._teacher, self._clips, self._seed = student, teacher, clips, seed
        self._embedding = embedding

    def descend(self, steps: int, on_step: Callable[[int, float], None] | None) -> Distillation:
        """Train the student and load its best weights."""
        student = self._student
        parameters = list(student.parameters())
        optimizer = torch.optim.Adam(parameters, lr=_RATE)
        wanted = [self._targets(clips) for clips in self._clips.held_out()]
        scale = _variances(wanted)
        before = best = self._held_out_loss(wanted, scale)
        if not math.isfinite(before):
            raise PruningError("outputs are not finite on the calibration clips; look for bad clips or weights")
        best_step, kept = 0, copy.deepcopy(student.state_dict())
        evaluate_every = max(1, steps // _EVALUATIONS)
        for step in range(1, steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
            mixtures = self._clips.mixtures(self._seed, step)
            loss = _distance(_outputs_of(student, mixtures, self._embedding.student), self._targets(mixtures), scale)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if on_step is not None:
                on_step(step, float(loss.detach()))
            if step % evaluate_every == 0 or step == steps:
                held_out_loss = self._held_out_loss(wanted, scale)
                if held_out_loss < best:
                    best, best_step, kept = held_out_loss, step, copy.deepcopy(student.state_dict())
        student.load_state_dict(kept)
        return Distillation(self._clips.total, steps, best_step, before, best, self._embedding.channels)

    @torch.no_grad()
    def _targets(self, clips: Tensor) -> Outputs:
        return _outputs_of(self._teacher, clips, self._embedding.teacher)

    @torch.no_grad()
    def _held_out_loss(self, wanted: list[Outputs], scale: Outputs) -> float:
        total = n_clips = 0.0
        for clips, targets in zip(self._clips.held_out(), wanted, strict=True):
            found = _outputs_of(self._student, clips, self._embedding.student)
            total += float(_distance(found, targets, scale)) * len(clips)
            n_clips += len(clips)
        return total / n_clips


def _outputs_of(model: Tagger, clips: Tensor, compared: Places) -> Outputs:
    """Return the compared channels of the embedding, if there are any, and the logits."""
    output = model(clips)
    embedding = output["embedding"][:, compared]
    return (embedding, output["clipwise_logits"]) if embedding.shape[1] else (output["clipwise_logits"],)


def _variances(outputs: list[Outputs]) -> Outputs:
    """Return the mean variance of each output over clips, or 1 where it does not vary."""
    variances = []
    for parts in zip(*outputs, strict=True):
        values = torch.cat(parts)
        variance = (values - values.mean(dim=0)).square().mean()
        variances.append(torch.where(variance > 0, variance, torch.ones_like(variance)))
    return tuple(variances)


def _distance(outputs: Outputs, wanted: Outputs, scale: Outputs) -> Tensor:
    errors = [F.mse_loss(one, other) / size for one, other, size in zip(outputs, wanted, scale, strict=True)]
    return torch.stack(errors).mean()
