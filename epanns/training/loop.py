"""The training loop, to be read from top to bottom."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epanns.data.dataset import ClipBatch, PackDataset
from epanns.data.loader import make_loader
from epanns.data.sampler import StepBatches, make_stream
from epanns.data.task import require_same_task
from epanns.errors import Interrupted, TrainingError
from epanns.models.recipe import training_step_of, with_step
from epanns.models.tagger import Tagger
from epanns.seeding import derive_seed
from epanns.signals import noticing_signals
from epanns.training.config import TrainingConfig
from epanns.training.folder import RunFolder
from epanns.training.losses import clip_bce
from epanns.training.mixup import draw_lambda, mix_target
from epanns.training.optim import build_optimizer, learning_rate_at
from epanns.training.state import TrainingState

OnStep = Callable[[TrainingState, float], None]


@dataclass(frozen=True)
class Validation:
    """How checkpoints are chosen.

    Attributes:
        score: Scores a model; its ``mAP`` decides. It must leave the model as it was.
        data: What the scores are measured on, in JSON values: part of a run's identity.
    """

    score: Callable[[Tagger], Mapping[str, float]]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        best_step: Step whose weights were kept, those with the highest validation mAP.
        best_score: That mAP.
        steps: Steps done in all.
        seconds: Time spent, over all resumptions.
    """

    best_step: int
    best_score: float
    steps: int
    seconds: float


def finetune(
    model: Tagger,
    dataset: PackDataset,
    config: TrainingConfig,
    out: Path,
    *,
    validation: Validation,
    on_step: OnStep | None = None,
    workers: int = 0,
) -> TrainingResult:
    """Train `model` and leave the best checkpoint by validation mAP in `out`.

    The run goes on where it was when called again with the same arguments, and on one machine ends with the same
    weights as if it had never stopped: step k draws its clips, mixing weights, masks and dropout from (seed, k) alone.

    Args:
        model: Trained in place, on the device its parameters are on, in channels-last memory format; it is left with
            the weights of the last step.
        dataset: Training clips with the model's labels and sample rate; `config` says what is taken of each.
        config: What to do.
        out: Run folder; becomes the checkpoint folder of the best weights when the run ends.
        validation: Called at step 0, every `validate_every` steps and after the last one.
        on_step: Called after each step with the state and the step's loss.
        workers: Processes that read clips.

    Raises:
        ConfigError: If the data do not fit the model.
        OutputError: If `out` holds another run.
        TrainingError: If the loss is not finite.
        Interrupted: If SIGINT or SIGTERM came; the state is saved.
    """
    require_same_task(model, dataset)
    folder = RunFolder(out, _asked(model, dataset, config, validation))
    if (ended := folder.open()) is not None:
        return TrainingResult(**ended)
    run = _Run(model, config, folder, validation)
    # The caller's random numbers are not touched by the seeding of every step.
    with torch.random.fork_rng(), noticing_signals() as stop:
        if not run.state.history:
            run.validate()
        for batch in make_loader(dataset.with_crop(config.crop), run.batches(dataset), workers=workers):
            loss = run.step(batch)
            if on_step is not None:
                on_step(run.state, loss)
            if run.state.step % config.validate_every == 0 or run.is_over:
                run.validate()
            if stop.signal_number is not None and not run.is_over:
                run.save()
                raise Interrupted(stop.signal_number, f"stopped by signal {stop.signal_number} at {run.where()}")
    state = run.state
    result = TrainingResult(state.best_step, state.best_score, state.step, round(state.seconds, 3))
    folder.finish(asdict(result))
    model.provenance = with_step(model.provenance, training_step_of(model.provenance), **folder.asked)
    if stop.signal_number is not None:
        raise Interrupted(
            stop.signal_number, f"signal {stop.signal_number} came as the run in {out} ended; it is whole"
        )
    return result


class _Run:
    """A run between its first and its last step."""

    def __init__(self, model: Tagger, config: TrainingConfig, folder: RunFolder, validation: Validation) -> None:
        self.model, self.config, self.folder, self.validation = model, config, folder, validation
        if config.freeze_backbone:
            model.freeze_backbone()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth to a half faster on a CPU
        self.optimizer = build_optimizer(model, config)
        self.state = TrainingState()
        if folder.state_file.exists():
            self.state = TrainingState.load(folder.state_file, model, self.optimizer)

    @property
    def is_over(self) -> bool:
        """Whether the last step is done."""
        return self.state.step >= self.config.iterations

    def batches(self, dataset: PackDataset) -> StepBatches:
        """Return the batches of the steps that are left."""
        return StepBatches(
            make_stream(self.config.sampler, dataset.targets, self.config.seed),
            batch_size=self.config.drawn_clips,
            first_step=self.state.step,
            last_step=self.config.iterations,
            together=2 if self.config.mixup_alpha > 0 else 1,
        )

    def step(self, batch: ClipBatch) -> float:
        """Do one optimisation step and return its loss."""
        started = time.perf_counter()
        state = self.state
        loss = _train_step(self.model, self.optimizer, batch, self.config, state.step)
        state.step += 1
        state.loss_sum, state.loss_count = state.loss_sum + loss, state.loss_count + 1
        state.seconds += time.perf_counter() - started
        return loss

    def validate(self) -> None:
        """Score the model, keep the weights if they are the best so far, write the metrics, save the state."""
        started = time.perf_counter()
        scores = self.validation.score(self.model)
        state = self.state
        state.seconds += time.perf_counter() - started
        row = {
            "step": state.step,
            "loss": state.loss_sum / state.loss_count if state.loss_count else float("nan"),
            "learning_rate": learning_rate_at(max(0, state.step - 1), self.config),
            **scores,
            "seconds": round(state.seconds, 3),
        }
        state.history.append(row)
        state.loss_sum, state.loss_count = 0.0, 0
        if scores["mAP"] > state.best_score:
            state.best_step, state.best_score = state.step, scores["mAP"]
            self.folder.keep_best(self.model, state)
        self.folder.write_metrics(state)
        self.save()

    def save(self) -> None:
        """Save what the run needs to go on."""
        self.state.save(self.folder.state_file, self.model, self.optimizer)

    def where(self) -> str:
        """Say how far the run is and how it goes on."""
        return (
            f"step {self.state.step} of {self.config.iterations}; the state is saved in {self.folder.path}: "
            "run the same command again to go on"
        )


def _asked(model: Tagger, dataset: PackDataset, config: TrainingConfig, validation: Validation) -> dict[str, Any]:
    """Return what makes two runs the same run."""
    return {
        "training": config.to_dict(),
        "data": dataset.identity(),
        "validation": dict(validation.data),
        "model": model.spec.to_dict(),
        "parent_sha256": model.provenance.get("sha256"),
    }


def _train_step(
    model: Tagger, optimizer: torch.optim.Adam, batch: ClipBatch, config: TrainingConfig, step: int
) -> float:
    """Do one optimisation step and return its loss."""
    device = next(model.parameters()).device
    torch.manual_seed(derive_seed("step", config.seed, step))
    set_learning_mode(model, spec_augment=config.spec_augment)
    on_device = batch.to(device)
    target: Tensor = on_device.float_target()
    mixup_lambda = None
    if config.mixup_alpha > 0:
        mixup_lambda = draw_lambda(config.batch_size, alpha=config.mixup_alpha, seed=config.seed, step=step).to(device)
        target = mix_target(target, mixup_lambda)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, config)
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        logits = model(on_device.float_waveform(), mixup_lambda)["clipwise_logits"]
    loss = clip_bce(logits.float(), target)
    value = float(loss.detach())
    if not torch.isfinite(loss):
        raise TrainingError(
            f"loss={value} at step {step}, clips {', '.join(batch.clip_ids[:4])}, ...: the last good state is saved; "
            f"lower --learning-rate {config.learning_rate:g} and use another --out"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def set_learning_mode(model: Tagger, *, spec_augment: bool) -> None:
    """Put a model in training mode, with or without SpecAugment."""
    model.train()
    model.spec_augmenter.train(spec_augment)
