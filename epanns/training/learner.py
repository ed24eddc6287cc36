"""One optimisation step: forward and backward pass over a batch, and an update unless a value is not finite."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epanns.clip_random import clip_draws, clip_seeds, dropout_if
from epanns.data.batches.dataset import ClipBatch
from epanns.distributed import rank, total, world_size
from epanns.errors import ConfigError
from epanns.models.families.yamnet import BODY, yamnet_body
from epanns.models.layers.mixup import draw_lambda, mix_target
from epanns.models.tagger import Tagger
from epanns.pruning.prune import check_optimizer
from epanns.seeding import derive_seed
from epanns.training.acceleration import CompiledNetwork
from epanns.training.config import TrainingConfig
from epanns.training.data_parallel import SharedNetwork, own_places, synchronised_batch_norms
from epanns.training.distillation import ScoresAsTeacher, Teacher
from epanns.training.losses import LOSSES
from epanns.training.optimizer import (
    NOTHING_LEARNS,
    MovingAverage,
    build_optimizer,
    clip_gradient,
    learning_rate_at,
    only_classifier_learns,
    set_rate,
    take_step,
)
from epanns.training.waveform_changes import changed


@dataclass(frozen=True)
class StepOutcome:
    """The outcome of a step.

    Attributes:
        loss: Mean loss over the clips of the step.
        gradient_norm: Euclidean norm of the gradient before clipping.
        skipped: Whether the weights were not updated because loss or gradient was not finite.
    """

    loss: float
    gradient_norm: float
    skipped: bool


class Learner:
    """A network, its optimizer and the moving average of its weights.

    Attributes:
        model: Network, in channels-last memory format.
        optimizer: Optimizer over the trainable parameters.
        places: Positions of this process's clips in the batch of a step.
        average: Moving average of the weights; None if the settings have none.
        teacher: Teacher for distillation; None without one.
    """

    def __init__(self, model: Tagger, config: TrainingConfig, teacher: Teacher | ScoresAsTeacher | None = None) -> None:
        if config.freeze_backbone:
            model.freeze_backbone()
        if config.freeze_yamnet:
            yamnet_body(model).freeze_yamnet()
        model.to(memory_format=torch.channels_last)
        self.model, self.config, self.teacher = model, config, teacher
        self.optimizer = build_optimizer(model, config)
        self._shared = SharedNetwork(model, called=CompiledNetwork(model) if config.compile else model)
        self.average = MovingAverage(model, config.ema_decay) if config.ema_decay else None
        self.places = own_places(config)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.model.parameters()).device

    @property
    def network_to_score(self) -> Tagger:
        """The network with the averaged weights or, without an average, the network itself: scored and kept."""
        return self.model if self.average is None else self.average.network

    def step(self, batch: ClipBatch, step: int, meanwhile: Callable[[], None] = lambda: None) -> StepOutcome:
        """Do optimisation step `step` (from 0) on this process's clips of the step.

        Every random number is a pure function of the seed, of `step` and of a clip's position in the batch of all
        processes, or of this process's rank if torch draws for a whole batch, as on a GPU.
        """
        config = self.config
        torch.manual_seed(derive_seed("step", config.seed, step, rank()))
        set_rate(self.optimizer, learning_rate_at(step, config))
        self.optimizer.zero_grad(set_to_none=True)
        head_alone = only_classifier_learns(self.model, step < config.head_iterations)
        norms = [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
        with head_alone, synchronised_batch_norms(self.model):
            set_learning_mode(self.model, spec_augment=config.spec_augment)
            own_loss = self._accumulate(batch, step)
            own_norm = clip_gradient(self.optimizer, config.clip_norm).to(own_loss)
            found = torch.stack([total(own_loss) / world_size(), own_norm])
            meanwhile()
            loss, norm = found.tolist()  # waits for a GPU
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if skipped:
            for buffer, before in statistics:
                buffer.copy_(before)
        else:
            take_step(self.optimizer)
            if self.average is not None:
                self.average.update(self.model, step)
        return StepOutcome(loss, norm, skipped)

    def _accumulate(self, batch: ClipBatch, step: int) -> Tensor:
        """Add the gradients of the parts of the batch, and return this process's share of the loss, in float64."""
        config, device = self.config, self.device
        seeds, mixing = clip_seeds(config.seed, step, self.places), None
        if config.mixup_alpha > 0:
            weights = draw_lambda(config.batch_size, alpha=config.mixup_alpha, seed=config.seed, step=step)
            mixing = weights[[place // 2 for place in self.places[::2]]]
        size = len(batch) // config.accumulate
        losses = []
        for first in range(0, len(batch), size):
            end = first + size
            part = batch.part(first, end).to(device)
            target, mixup_lambda = part.float_target(), None
            if mixing is not None:
                mixup_lambda = mixing[first // 2 : end // 2].to(device, non_blocking=True)
                target = mix_target(target, mixup_lambda)
            waveform = changed(
                part.float_waveform(), seeds[first:end], shift=config.shift, gain_decibels=config.gain_decibels
            )
            network = self._shared.now()
            exchanging = self._shared.exchanging(end == len(batch))
            with exchanging, clip_draws(seeds[first:end]), dropout_if(config.dropout):
                distilled = (
                    None if self.teacher is None else self.teacher.target_of(waveform, mixup_lambda, part.clip_ids)
                )
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    output = network(waveform, mixup_lambda)
                loss = LOSSES[self.model.spec.activation](output["clipwise_logits"].float(), target)
                if distilled is not None:
                    loss = distilled.loss(loss, output)
                loss = loss / config.accumulate
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).double().sum()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, moments and average.

        Raises:
            PruningError: If the network was pruned after the optimizer was built.
        """
        check_optimizer(self.optimizer, self.model)
        average = None if self.average is None else self.average.network.state_dict()
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        check_optimizer(self.optimizer, self.model)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])


def require_learner(model: Tagger, config: TrainingConfig) -> None:
    """Check that a `Learner` can be built, before anything is written or deleted; nothing is changed.

    Raises:
        ConfigError: If the batch cannot be divided among the processes, the network has no YAMNet body to freeze, or no
            parameter is trainable.
    """
    own_places(config)
    frozen: tuple[str, ...] = ()
    if config.freeze_yamnet:
        yamnet_body(model)
        frozen = (BODY,)
    may_learn = any(each.requires_grad for name, each in model.named_parameters() if not name.startswith(frozen))
    if not (may_learn or config.freeze_backbone):  # freeze_backbone makes the classifier trainable
        raise ConfigError(NOTHING_LEARNS)


def set_learning_mode(model: Tagger, *, spec_augment: bool) -> None:
    """Put a model in training mode, with or without SpecAugment."""
    model.train()
    model.spec_augmenter.train(spec_augment)
