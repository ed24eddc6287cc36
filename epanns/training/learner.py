"""One optimisation step: from clips to other weights, or to none if something is not finite."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epanns.data.dataset import ClipBatch
from epanns.models.tagger import Tagger
from epanns.pruning.optimizers import check_optimizer
from epanns.seeding import derive_seed
from epanns.training.averaging import MovingAverage
from epanns.training.compiled import CompiledNetwork
from epanns.training.config import TrainingConfig
from epanns.training.losses import LOSSES
from epanns.training.mixup import draw_lambda, mix_target
from epanns.training.optim import build_optimizer, only_classifier_learns, set_rate
from epanns.training.schedule import learning_rate_at
from epanns.training.teacher import Teacher


@dataclass(frozen=True)
class StepOutcome:
    """What a step did.

    Attributes:
        loss: Mean over the clips of the step.
        gradient_norm: Euclidean norm of the gradient before it was clipped.
        skipped: Whether the weights were left alone, since loss or gradient was not finite.
    """

    loss: float
    gradient_norm: float
    skipped: bool


class Learner:
    """A network, what changes its weights, and their moving average.

    Attributes:
        model: What learns, in channels-last memory format.
        optimizer: Over what may learn.
        average: Of the weights, where the configuration asks for it.
        teacher: What it learns from beside the labels, if anything.
    """

    def __init__(self, model: Tagger, config: TrainingConfig, teacher: Teacher | None = None) -> None:
        if config.freeze_backbone:
            model.freeze_backbone()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth to a half faster on a CPU
        self.model, self.config, self.teacher = model, config, teacher
        self._forward = CompiledNetwork(model) if config.compile else model
        self.optimizer = build_optimizer(model, config)
        self.average = MovingAverage(model, config.ema_decay) if config.ema_decay else None

    @property
    def scored(self) -> Tagger:
        """The network to score and to keep: the average of the weights, or the weights."""
        return self.model if self.average is None else self.average.network

    def step(self, batch: ClipBatch, step: int) -> StepOutcome:
        """Do optimisation step `step` (from 0) on the clips that were drawn for it.

        Every random number of the step is a pure function of the seed and of `step`.
        """
        config = self.config
        torch.manual_seed(derive_seed("step", config.seed, step))
        set_rate(self.optimizer, learning_rate_at(step, config))
        self.optimizer.zero_grad(set_to_none=True)
        head_alone = only_classifier_learns(self.model, step < config.head_iterations)
        with head_alone, _statistics_kept(self.model) as restore:
            set_learning_mode(self.model, spec_augment=config.spec_augment)
            loss = sum(self._backward(part, weights) for part, weights in self._parts(batch, step))
            norm = self._gradient_norm()
            skipped = not (math.isfinite(loss) and math.isfinite(norm))
            if skipped:
                restore()
        if not skipped:
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model, step)
        return StepOutcome(loss, norm, skipped)

    def _parts(self, batch: ClipBatch, step: int) -> Iterator[tuple[ClipBatch, Tensor | None]]:
        """Yield the batch in parts, each with the mixing weights of its pairs."""
        config = self.config
        size = len(batch) // config.accumulate
        mixing = None
        if config.mixup_alpha > 0:
            mixing = draw_lambda(config.batch_size, alpha=config.mixup_alpha, seed=config.seed, step=step)
        for first in range(0, len(batch), size):
            pairs = None if mixing is None else mixing[first // 2 : (first + size) // 2]
            yield batch.part(first, first + size), pairs

    def _backward(self, batch: ClipBatch, mixup_lambda: Tensor | None) -> float:
        """Add a part's share of the gradient and return its share of the loss."""
        device = next(self.model.parameters()).device
        on_device = batch.to(device)
        target = on_device.float_target()
        if mixup_lambda is not None:
            mixup_lambda = mixup_lambda.to(device)
            target = mix_target(target, mixup_lambda)
        waveform = on_device.float_waveform()
        lesson = None if self.teacher is None else self.teacher.lesson(waveform, mixup_lambda)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            output = self._forward(waveform, mixup_lambda)
        loss = LOSSES[self.model.spec.activation](output["clipwise_logits"].float(), target)
        if lesson is not None:
            loss = lesson.loss(loss, output)
        loss = loss / self.config.accumulate
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _gradient_norm(self) -> float:
        """Return the norm of the gradient, and scale the gradient down where that is too high."""
        learning = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.get_total_norm([each.grad for each in learning if each.grad is not None])
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(learning, self.config.clip_norm, norm)
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, moments and average, to be saved.

        Raises:
            PruningError: If the network was pruned since the optimizer was made.
        """
        check_optimizer(self.optimizer, self.model)
        average = None if self.average is None else self.average.network.state_dict()
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        check_optimizer(self.optimizer, self.model)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Yield what puts the batch norms' statistics back to what they were."""
    kept = {name: buffer.clone() for name, buffer in _statistics(model)}

    def restore() -> None:
        for name, buffer in _statistics(model):
            buffer.copy_(kept[name])

    yield restore


def _statistics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for key, buffer in module.named_buffers():
                yield f"{name}.{key}", buffer


def set_learning_mode(model: Tagger, *, spec_augment: bool) -> None:
    """Put a model in training mode, with or without SpecAugment."""
    model.train()
    model.spec_augmenter.train(spec_augment)
