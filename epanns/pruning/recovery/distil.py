"""A pruned network led on toward the unpruned one's outputs by gradient descent: no labels.

What makes it safe where few clips are at hand: batch-norm statistics stay as they are, the rate is small and falls to
zero, every step sees other mixtures of two clips, and clips that are held out judge: the weights that were best on them
are kept, and those from before the first step if none were better.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
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
from epanns.pruning.embedding import Places, SharedChannels, shared_channels
from epanns.pruning.ranking.calibration import heard
from epanns.pruning.recovery.walk import HELD_OUT_EVERY
from epanns.seeding import numpy_generator

Outputs = tuple[Tensor, ...]  # embedding and logits, or logits alone

_BATCH = 16  # mixtures in a step
_RATE = 3e-4  # Adam's, at its highest
_JUDGED = 10  # how often the held-out clips judge
MOST_HELD_BYTES = 1 << 30  # of clips in 16 bit


@dataclass(frozen=True)
class Distillation:
    """What `distil` did.

    Attributes:
        clips: Calibration clips, held-out ones included.
        steps: Steps that were done.
        best_step: The step whose weights are kept; 0 for those from before.
        before: Loss on held-out clips before the first step: the mean of the squared errors of embedding and logits,
            each relative to its variance.
        after: The same with the weights that are kept.
        embedding_channels: Channels of the embedding that were compared; 0 where the logits alone were, since nothing
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
    waveforms: Callable[[], Iterable[Tensor]],
    *,
    steps: int,
    seed: int = 0,
    plan: PruningPlan | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Distillation:
    """Lead a pruned network toward the unpruned one's embedding and logits, in place.

    Where pruning removed channels of the embedding itself, the kept channels are compared.

    Args:
        pruned: Made from `dense` and of the same classes; best after `refit_readers`.
        dense: The unpruned network; not touched.
        waveforms: Gives the calibration batches, ``(batch, samples)`` float in [-1, 1], all of one length; real sound,
            unlabelled, at least two clips. Every fifth clip is held out.
        steps: How many steps to do, > 0.
        seed: Of the mixtures.
        plan: Leads from `dense` to `pruned`; by default the plans in the provenance of both tell which channels of the
            embedding were kept. Without any, embeddings of different sizes are not compared.
        on_step: Called after each step with its number and its loss; what it raises ends the run.

    Raises:
        PruningError: If the classes differ, there are too few clips or too many for memory, or something is not finite.
            After this or any other error `pruned` is as it was.
    """
    if steps < 1:
        raise PruningError(f"{steps} steps of distillation: give at least 1")
    if (ours := pruned.spec.num_classes) != (wanted := dense.spec.num_classes):
        raise PruningError(f"the pruned network has {ours} classes, dense {wanted}: distil before reset_classifier")
    clips = _Clips(waveforms, pruned)
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    run = _Run(pruned, dense, clips, seed, shared_channels(pruned, dense, plan))
    try:
        with _learning(pruned), evaluation_mode(dense):
            done = run.descend(steps, on_step)
    except BaseException:
        pruned.load_state_dict(before)
        raise
    said: dict[str, Any] = {"clips": done.clips, "steps": steps, "seed": seed, "best_step": done.best_step}
    said["held_out"] = {"before": done.before, "after": done.after}
    pruned.provenance = pruned.provenance.with_operation("recover", method="distil", **said)
    return done


@contextmanager
def _learning(model: nn.Module) -> Iterator[None]:
    """Let every parameter learn in evaluation mode, in which batch norms keep their statistics; restore both."""
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model), requires_grad_restored(model):
        model.requires_grad_(True)
        try:
            yield
        finally:
            model.zero_grad(set_to_none=True)


class _Clips:
    """Calibration clips in memory, in 16 bit as packs have them."""

    def __init__(self, waveforms: Callable[[], Iterable[Tensor]], student: Tagger) -> None:
        self._device = next(student.parameters()).device
        held: list[Tensor] = []
        for waveform in heard(student, waveforms()):
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
        clips = torch.cat(held) if held else torch.empty(0, 0)
        if len(clips) < 2:
            raise PruningError(f"{len(clips)} calibration clips: give at least two, some hundreds if you can")
        self.total = len(clips)
        is_held_out = torch.arange(len(clips)) % HELD_OUT_EVERY == 1
        self._fitted, self._held_out = clips[~is_held_out], clips[is_held_out]

    def mixtures(self, seed: int, step: int) -> Tensor:
        """Return a step's clips, ``(batch, samples)``: each the sum of two, weighted, from another moment on."""
        draw = numpy_generator("distil", seed, step)
        first, second = draw.integers(len(self._fitted), size=(2, _BATCH))
        weight = torch.from_numpy(draw.random(_BATCH)).float()[:, None]
        mixed = self._floats(self._fitted[first]) * weight + self._floats(self._fitted[second]) * (1 - weight)
        moments = draw.integers(mixed.shape[1], size=_BATCH)
        rolled = [torch.roll(clip, int(moment)) for clip, moment in zip(mixed, moments, strict=True)]
        return torch.stack(rolled).to(self._device)

    def held_out(self) -> Iterator[Tensor]:
        """Yield the held-out clips as they are, some at a time."""
        return (self._floats(some).to(self._device) for some in torch.split(self._held_out, _BATCH))

    def _floats(self, clips: Tensor) -> Tensor:
        return clips.float() / 32_767


class _Run:
    """Two networks, the clips, and how far the one is from the other."""

    def __init__(self, student: Tagger, teacher: Tagger, clips: _Clips, seed: int, embedding: SharedChannels) -> None:
        self._student, self._teacher, self._clips, self._seed = student, teacher, clips, seed
        self._embedding = embedding

    def descend(self, steps: int, on_step: Callable[[int, float], None] | None) -> Distillation:
        """Do the steps and put the best weights in."""
        student = self._student
        parameters = list(student.parameters())
        optimizer = torch.optim.Adam(parameters, lr=_RATE)
        wanted = [self._targets(clips) for clips in self._clips.held_out()]
        scale = _variances(wanted)
        before = best = self._judge(wanted, scale)
        if not math.isfinite(before):
            raise PruningError("outputs are not finite on the calibration clips; look for bad clips or weights")
        best_step, kept = 0, copy.deepcopy(student.state_dict())
        judged_every = max(1, steps // _JUDGED)
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
            if step % judged_every == 0 or step == steps:
                judged = self._judge(wanted, scale)
                if judged < best:
                    best, best_step, kept = judged, step, copy.deepcopy(student.state_dict())
        student.load_state_dict(kept)
        return Distillation(self._clips.total, steps, best_step, before, best, self._embedding.channels)

    @torch.no_grad()
    def _targets(self, clips: Tensor) -> Outputs:
        return _outputs_of(self._teacher, clips, self._embedding.teacher)

    @torch.no_grad()
    def _judge(self, wanted: list[Outputs], scale: Outputs) -> float:
        total = n_clips = 0.0
        for clips, targets in zip(self._clips.held_out(), wanted, strict=True):
            found = _outputs_of(self._student, clips, self._embedding.student)
            total += float(_distance(found, targets, scale)) * len(clips)
            n_clips += len(clips)
        return total / n_clips


def _outputs_of(model: Tagger, clips: Tensor, compared: Places) -> Outputs:
    """Return the compared channels of the embedding, where there are any, and the logits."""
    output = model(clips)
    embedding = output["embedding"][:, compared]
    return (embedding, output["clipwise_logits"]) if embedding.shape[1] else (output["clipwise_logits"],)


def _variances(outputs: list[Outputs]) -> Outputs:
    """Return the mean variance of each output over clips, or 1 where there is none."""
    variances = [_variance(torch.cat(parts)) for parts in zip(*outputs, strict=True)]
    return tuple(torch.where(variance > 0, variance, torch.ones_like(variance)) for variance in variances)


def _variance(values: Tensor) -> Tensor:
    return (values - values.mean(dim=0)).square().mean()


def _distance(outputs: Outputs, wanted: Outputs, scale: Outputs) -> Tensor:
    errors = [F.mse_loss(one, other) / size for one, other, size in zip(outputs, wanted, scale, strict=True)]
    return torch.stack(errors).mean()
