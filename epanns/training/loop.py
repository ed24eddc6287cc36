"""The training loop, to be read from top to bottom."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from epanns.data.dataset import ClipBatch, PackDataset
from epanns.data.loader import make_loader
from epanns.data.sampler import StepBatches, make_stream
from epanns.data.task import require_same_task
from epanns.distributed import any_of, broadcast, on_rank_zero
from epanns.errors import ConfigError, Interrupted, TrainingError
from epanns.models.recipe import steps_of, training_step_of, with_step
from epanns.models.tagger import Tagger
from epanns.models.tasks import DECISIVE_SCORES
from epanns.signals import noticing_signals
from epanns.training.config import TrainingConfig
from epanns.training.events import event_log
from epanns.training.folder import RunFolder
from epanns.training.learner import Learner, StepOutcome
from epanns.training.parallel import own_places, require_same_step
from epanns.training.running import Running
from epanns.training.schedule import learning_rate_at
from epanns.training.state import TrainingState, load_state, save_state
from epanns.training.teacher import sha256_of, teacher_of

MOST_SKIPPED = 5  # steps in a row without a finite loss; then the run is lost


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


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        best_step: Step whose weights were kept, those with the best validation score.
        best_score: That score.
        steps: Steps done in all.
        seconds: Time spent, over all resumptions.
        chosen_by: The score: ``mAP``, or ``accuracy`` of single-label networks.
        curve: Step and score of every validation; none in runs from before it was kept.
    """

    best_step: int
    best_score: float
    steps: int
    seconds: float
    chosen_by: str = "mAP"
    curve: Sequence[Sequence[float]] = ()


def finetune(
    model: Tagger,
    dataset: PackDataset,
    config: TrainingConfig,
    out: Path,
    *,
    validation: Validation,
    running: Running | None = None,
    teacher: Tagger | None = None,
) -> TrainingResult:
    """Train `model` and leave the best checkpoint in `out`: by validation mAP, or accuracy of a single-label network.

    The run goes on where it was when called again with the same arguments, and on one machine ends with the same
    weights as if it had never stopped: step k draws its clips, mixing weights, masks and dropout from (seed, k) alone.
    Several processes, each of which calls this, share every batch and do what one does; rank 0 alone writes and tells.

    Args:
        model: Trained in place, on the device its parameters are on, in channels-last memory format; it is left with
            the weights of the last step.
        dataset: Training clips with the model's labels and sample rate; `config` says what is taken of each.
        config: What to do.
        out: Run folder; becomes the checkpoint folder of the best weights when the run ends.
        validation: Called at step 0, every `validate_every` steps and after the last one.
        running: How to carry the run out, and whom to tell.
        teacher: Network to learn from beside the labels, by the weights that `config` gives it; it is moved to the
            model's device and otherwise left as it is.

    Raises:
        ConfigError: If data or teacher do not fit the model, or the validation lacks the score that decides.
        OutputError: If `out` holds another run.
        TrainingError: If loss or gradient is not finite `MOST_SKIPPED` times in a row; single such steps are skipped,
            told and counted.
        Interrupted: If SIGINT or SIGTERM came; the state is saved.
    """
    if config.task is not None:
        model.set_task(config.task)
    require_same_task(model, dataset)
    taught_by = teacher_of(model, teacher, config)
    told = {} if teacher is None else {"teacher_sha256": sha256_of(teacher)}
    own_places(config)  # refuses a batch that cannot be shared out before anything is written
    folder = RunFolder(out, _asked(model, dataset, config, validation) | told)
    if (ended := on_rank_zero(folder.open)) is not None:
        return TrainingResult(**ended)
    running = (running or Running()).heard_once()
    run = _Run(Learner(model, config, taught_by), folder, validation, running)
    # The caller's random numbers are not touched by the seeding of every step.
    with torch.random.fork_rng(), noticing_signals() as stop, run.logging():
        if not run.state.history:
            run.validate()
        loader = make_loader(dataset.with_crop(config.crop), run.batches(dataset), workers=running.workers)
        for batch in run.waiting_for(loader):
            run.step(batch)
            if not run.is_over and any_of(stop.signal_number is not None):
                run.save()
                number = stop.signal_number or signal.SIGTERM  # it may have come to another process alone
                raise Interrupted(number, f"stopped by signal {number} at {run.where()}")
    state = run.state
    curve = [[row["step"], row[run.chosen_by]] for row in state.history]
    result = TrainingResult(
        state.best_step, state.best_score, state.step, round(state.seconds, 3), run.chosen_by, curve
    )
    on_rank_zero(lambda: folder.finish(asdict(result)))
    model.provenance = with_step(model.provenance, training_step_of(model.provenance), **folder.asked)
    if stop.signal_number is not None:
        raise Interrupted(
            stop.signal_number, f"signal {stop.signal_number} came as the run in {out} ended; it is whole"
        )
    return result


class _Run:
    """A run between its first and its last step."""

    def __init__(self, learner: Learner, folder: RunFolder, validation: Validation, running: Running) -> None:
        self.learner, self.config, self.folder, self.validation = learner, learner.config, folder, validation
        self.running = running
        self.chosen_by = DECISIVE_SCORES[learner.model.spec.task]
        self.state = load_state(folder.path, learner, running.tell) or TrainingState()
        require_same_step(self.state.step)

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
            places=self.learner.places,
        )

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Write the metrics of the steps that are done anew, and let events be written of those that come."""
        state = self.state
        if state.history:  # a killed call, or one whose last state cannot be read, may have written more
            on_rank_zero(lambda: self.folder.write_metrics(state))
        first = state.step + 1 if state.history else 0
        with event_log(self.folder.path, first, wanted=self.running.tensorboard) as self.log:
            yield

    def waiting_for(self, batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
        """Pass batches on and count the time until they come."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            waited = time.perf_counter() - started
            self.state.seconds, self.state.data_seconds = self.state.seconds + waited, self.state.data_seconds + waited
            if batch is None:
                return
            yield batch

    def step(self, batch: ClipBatch) -> None:
        """Do one optimisation step, validate and save where it is time to."""
        started = time.perf_counter()
        state = self.state
        outcome = self.learner.step(batch, state.step)
        state.step += 1
        if outcome.skipped:
            self._count_skipped(outcome, batch)
        else:
            state.loss_sum, state.loss_count = state.loss_sum + outcome.loss, state.loss_count + 1
            state.norm_sum += outcome.gradient_norm
            state.skipped_in_a_row = 0
        state.seconds += time.perf_counter() - started
        if self.running.on_step is not None:
            self.running.on_step(state, outcome.loss)
        if state.step % self.config.validate_every == 0 or self.is_over:
            self.validate()
        elif self.running.save_every is not None and state.step % self.running.save_every == 0:
            self.save()

    def _count_skipped(self, outcome: StepOutcome, batch: ClipBatch) -> None:
        state = self.state
        state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
        what = f"step {state.step} skipped: loss {outcome.loss:g}, gradient norm {outcome.gradient_norm:g}"
        clips = f"clips {', '.join(batch.clip_ids[:4])}, ..."
        self.running.tell(f"{what}; {clips}")
        if state.skipped_in_a_row >= MOST_SKIPPED:
            raise TrainingError(
                f"loss or gradient was not finite {state.skipped_in_a_row} times in a row, up to step {state.step}, "
                f"{clips}: the last good state is kept in {self.folder.path}; "
                f"lower --learning-rate {self.config.learning_rate:g} and use another --out"
            )

    def validate(self) -> None:
        """Score the model, keep the weights if they are the best so far, write the metrics, save the state."""
        started = time.perf_counter()
        scores = broadcast(dict(self.validation.score(self.learner.scored)))
        if self.chosen_by not in scores:
            raise ConfigError(
                f"the validation gives {', '.join(scores)}: a {self.learner.model.spec.task} network is chosen by "
                f"{self.chosen_by}, return it too"
            )
        state = self.state
        state.seconds += time.perf_counter() - started
        count = state.loss_count or float("nan")
        row = {
            "step": state.step,
            "loss": state.loss_sum / count,
            "gradient_norm": state.norm_sum / count,
            "learning_rate": learning_rate_at(max(0, state.step - 1), self.config),
            **scores,
            "skipped": state.skipped,
            "seconds": round(state.seconds, 3),
            "data_seconds": round(state.data_seconds, 3),
        }
        state.history.append(row)
        state.loss_sum, state.norm_sum, state.loss_count = 0.0, 0.0, 0
        if scores[self.chosen_by] > state.best_score:
            state.best_step, state.best_score = state.step, scores[self.chosen_by]
            on_rank_zero(lambda: self.folder.keep_best(self.learner.scored, state, self.chosen_by))
        on_rank_zero(lambda: self.folder.write_metrics(state))
        self.log(row)
        self.save()
        if self.running.on_validation is not None:
            self.running.on_validation(state)

    def save(self) -> None:
        """Save what the run needs to go on."""
        on_rank_zero(lambda: save_state(self.folder.path, self.state, self.learner))

    def where(self) -> str:
        """Say how far the run is and how it goes on."""
        return (
            f"step {self.state.step} of {self.config.iterations}; the state is saved in {self.folder.path}: "
            "run the same command again to go on"
        )


def _asked(model: Tagger, dataset: PackDataset, config: TrainingConfig, validation: Validation) -> dict[str, Any]:
    """Return what makes two runs the same run."""
    asked = {
        "training": config.to_dict(),
        "data": dataset.identity(),
        "validation": dict(validation.data),
        "model": model.spec.to_dict(),
        "parent_sha256": model.provenance.get("sha256"),
    }
    last = (steps_of(model.provenance) or [{"step": ""}])[-1]
    if last["step"] == "transfer":  # the same network with a fresh classifier is another one
        asked["transfer"] = {key: len(last[key]) for key in ("kept", "new")}
    return asked
