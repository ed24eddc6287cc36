"""The training loop, to be read from top to bottom."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from epanns.data.dataset import ClipBatch, PackDataset, make_loader
from epanns.data.sampler import StepBatches
from epanns.data.task import require_same_task
from epanns.errors import Interrupted, TrainingError
from epanns.models.cnn import Cnn
from epanns.seeding import derive_seed
from epanns.training.config import TrainingConfig
from epanns.training.folder import RunFolder
from epanns.training.losses import clip_bce
from epanns.training.mixup import draw_lambda, mix_target
from epanns.training.optim import build_optimizer, learning_rate_at
from epanns.training.signals import StopRequest, noticing_signals
from epanns.training.state import TrainingState

Validate = Callable[[Cnn], Mapping[str, float]]
OnStep = Callable[[TrainingState, float], None]


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
    model: Cnn,
    dataset: PackDataset,
    config: TrainingConfig,
    out: Path,
    *,
    validate: Validate,
    on_step: OnStep | None = None,
    workers: int = 0,
) -> TrainingResult:
    """Train `model` and leave the best checkpoint by validation mAP in `out`.

    The run goes on where it was when called again with the same arguments, and on one machine ends with the same
    weights as if it had never stopped: step k draws its clips, mixing weights, masks and dropout from (seed, k) alone.

    Args:
        model: Trained in place, on the device its parameters are on.
        dataset: Training clips with the model's labels and sample rate.
        config: What to do.
        out: Run folder; becomes the checkpoint folder of the best weights when the run ends.
        validate: Scores a model; its ``mAP`` chooses the checkpoint. Called at step 0, every `validate_every` steps and
            after the last one.
        on_step: Called after each step with the state and the step's loss.
        workers: Processes that read clips.

    Raises:
        ConfigError: If the data do not fit the model.
        OutputError: If `out` holds another run.
        TrainingError: If the loss is not finite.
        Interrupted: If SIGINT or SIGTERM came; the state is saved.
    """
    require_same_task(model, dataset)
    if config.freeze_backbone:
        model.freeze_backbone()
    folder = RunFolder(out, _asked(model, dataset, config))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth to a half faster on a CPU
    if (ended := folder.open()) is not None:
        return TrainingResult(**ended)
    optimizer = build_optimizer(model, config)
    state = TrainingState()
    if folder.state_file.exists():
        state = TrainingState.load(folder.state_file, model, optimizer)
    # The caller's random numbers are not touched by the seeding of every step.
    with torch.random.fork_rng(), noticing_signals() as stop:
        if not state.history:
            _validate(model, validate, state, folder, learning_rate_at(0, config))
            state.save(folder.state_file, model, optimizer)
        batches = StepBatches(
            dataset.targets,
            sampler=config.sampler,
            batch_size=config.drawn_clips,
            seed=config.seed,
            first_step=state.step,
            last_step=config.iterations,
        )
        for batch in make_loader(dataset, batches, workers=workers):
            started = time.perf_counter()
            rate = learning_rate_at(state.step, config)
            loss = _train_step(model, optimizer, batch, config, state.step, rate)
            state.step += 1
            state.loss_sum, state.loss_count = state.loss_sum + loss, state.loss_count + 1
            state.seconds += time.perf_counter() - started
            if on_step is not None:
                on_step(state, loss)
            if state.step % config.validate_every == 0 or state.step == config.iterations:
                _validate(model, validate, state, folder, rate)
                state.save(folder.state_file, model, optimizer)
            _obey(stop, state, folder, (model, optimizer), config.iterations)
    result = TrainingResult(state.best_step, state.best_score, state.step, round(state.seconds, 3))
    folder.finish(asdict(result))
    return result


def _asked(model: Cnn, dataset: PackDataset, config: TrainingConfig) -> dict[str, Any]:
    """Return what makes two runs the same run."""
    return {
        "training": config.to_dict(),
        "data": {"name": dataset.dataset_name, "clips": len(dataset), "sha256": dataset.digest},
        "model": model.spec.to_dict(),
        "parent_sha256": model.provenance.get("sha256"),
    }


def _train_step(
    model: Cnn, optimizer: torch.optim.Adam, batch: ClipBatch, config: TrainingConfig, step: int, rate: float
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
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss = clip_bce(model(on_device.float_waveform(), mixup_lambda)["clipwise_logits"], target)
    value = float(loss.detach())
    if not torch.isfinite(loss):
        raise TrainingError(
            f"loss={value} at step {step}, clips {', '.join(batch.clip_ids[:4])}, ...: the last good state is saved; "
            f"lower --learning-rate {config.learning_rate:g} and use another --out"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def set_learning_mode(model: Cnn, *, spec_augment: bool) -> None:
    """Put a model in training mode, with frozen batch norms in evaluation mode so that they do not drift."""
    model.train()
    model.spec_augmenter.train(spec_augment)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
            module.eval()


def _validate(model: Cnn, validate: Validate, state: TrainingState, folder: RunFolder, rate: float) -> None:
    """Score the model, write a row of the metrics and keep the weights if they are the best so far."""
    started = time.perf_counter()
    scores = validate(model)
    state.seconds += time.perf_counter() - started
    loss = state.loss_sum / state.loss_count if state.loss_count else float("nan")
    state.history.append(
        {"step": state.step, "loss": loss, "learning_rate": rate, **scores, "seconds": round(state.seconds, 3)}
    )
    state.loss_sum, state.loss_count = 0.0, 0
    if scores["mAP"] > state.best_score:
        state.best_step, state.best_score = state.step, scores["mAP"]
        folder.keep_best(model, state)
    folder.write_metrics(state)


def _obey(
    stop: StopRequest, state: TrainingState, folder: RunFolder, learner: tuple[Cnn, torch.optim.Adam], last: int
) -> None:
    """Save and leave if a signal came, unless the run is over anyway."""
    if stop.signal_number is None or state.step == last:
        return
    state.save(folder.state_file, *learner)
    raise Interrupted(
        stop.signal_number,
        f"stopped by signal {stop.signal_number} at step {state.step} of {last}; the state is saved in {folder.path}: "
        "run the same command again to go on",
    )
