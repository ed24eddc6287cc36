"""The training loop: steps, validations and saved states, in the order of execution; and its options."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from epanns.data.batches.dataset import ClipBatch, PackDataset
from epanns.data.batches.loader import make_loader
from epanns.data.batches.sampler import StepBatches, make_stream
from epanns.distributed import any_of, gather, on_rank_zero, rank, world_size
from epanns.errors import ConfigError, Interrupted, TrainingError
from epanns.labels import DECISIVE_SCORES
from epanns.process import Stopped, StopRequest
from epanns.training.acceleration import PrefetchedBatches
from epanns.training.data_parallel import require_same_step
from epanns.training.learner import Learner
from epanns.training.metrics import LOSS, event_log, require_tensorboard, row_of, scores_of
from epanns.training.optimizer import learning_rate_at
from epanns.training.resume import TrainingState
from epanns.training.run_folder import RunFolder
from epanns.training.validation import Validation

SAVE_EVERY = 500  # steps: about a minute on a fast GPU, where saving Cnn14 takes a few seconds

OnStep = Callable[[TrainingState, float], None]
OnValidation = Callable[[TrainingState], None]
Log = Callable[[str], None]


def no_log(_line: str) -> None:
    """Ignore a line."""


@dataclass(frozen=True)
class RunOptions:
    """Options that may differ between two calls of one run; its final weights do not depend on them.

    Attributes:
        workers: Number of processes that read clips; 0 reads in the main process.
        save_every: Number of steps between states, beside the state at every validation. A killed run repeats the steps
            since the last state.
        on_step: Called after each step with the state and the loss of the step.
        on_validation: Called after each validation, whose row is the last of the state's history.
        tensorboard: Whether to write the metrics as event files of TensorBoard too.
        log: Called with one line for each event that a user should see: the step at which the run resumes, a skipped
            step, a state that cannot be read.
        fresh: Whether to delete an earlier run in the folder, after all checks and under the lock.
        command: The command that resumes the run; the folder keeps it until the run has finished.
    """

    workers: int = 0
    save_every: int = SAVE_EVERY
    on_step: OnStep | None = None
    on_validation: OnValidation | None = None
    tensorboard: bool = False
    log: Log = no_log
    fresh: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise ConfigError(f"save_every={self.save_every}: must be at least 1 step")
        if self.tensorboard:
            require_tensorboard()

    def for_this_process(self) -> "RunOptions":
        """Return the options on rank 0, and the options without callbacks, log and TensorBoard on other ranks."""
        if rank() == 0:
            return self
        return replace(self, on_step=None, on_validation=None, tensorboard=False, log=no_log)


MOST_SKIPPED = 5  # consecutive steps without a finite loss, at which the run fails
_NAMED = 4  # clips of a skipped step that are named in the log


class Run:
    """A run between its first and its last step.

    A state may be saved after any step, before or after the validation that is due there.
    """

    def __init__(self, learner: Learner, folder: RunFolder, validation: Validation, options: RunOptions) -> None:
        self.learner, self.config, self.folder, self.validation = learner, learner.config, folder, validation
        self.options = options
        self.chosen_by = DECISIVE_SCORES[learner.model.spec.task]
        self.begins_untrained = learner.model.provenance.is_untrained
        self.state = folder.resume(learner, options.log) or TrainingState()
        require_same_step(self.state.step)
        if self.state.step:
            options.log(f"resume at step {self.state.step:,} of {self.config.iterations:,}")

    @property
    def is_over(self) -> bool:
        """Whether the last step is done."""
        return self.state.step >= self.config.iterations

    @property
    def is_to_validate(self) -> bool:
        """Whether a validation is due at this step and not yet done."""
        validated = self.state.history[-1]["step"] if self.state.history else -1
        return validated < self.state.step and (self.state.step % self.config.validate_every == 0 or self.is_over)

    def complete(self, dataset: PackDataset, stop: StopRequest) -> None:
        """Do the remaining steps and validations.

        Raises:
            Interrupted: At the next safe point after a signal; the state is saved.
        """
        try:
            _raise_if_stopped(stop)
            if self.is_to_validate:
                self.validate(stop)
            remaining = StepBatches(
                make_stream(self.config.sampler, dataset.targets, self.config.seed),
                batch_size=self.config.drawn_clips,
                first_step=self.state.step,
                last_step=self.config.iterations,
                places=self.learner.places,
            )
            cropped = dataset.with_crop(self.config.crop)
            with closing(make_loader(cropped, remaining, workers=self.options.workers)) as loader:
                batches = PrefetchedBatches(loader, self.learner.device)
                while not self.is_over:
                    started = time.perf_counter()
                    batch = next(batches)
                    self.state.seconds += time.perf_counter() - started
                    self.state.data_seconds, batches.waited = self.state.data_seconds + batches.waited, 0.0
                    self.step(batch, batches.prefetch)
                    if self.is_to_validate:
                        self.validate(stop)
                    elif self.state.step % self.options.save_every == 0:
                        self.save()
                    if not self.is_over:
                        _raise_if_stopped(stop)
        except Stopped as stopped:
            self.save()
            raise Interrupted(
                stopped.signal_number,
                f"stopped by signal {stopped.signal_number} at step {self.state.step} of {self.config.iterations}; "
                f"{self.folder.kept()}",
            ) from None

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Write the metrics up to the resumed step, and open the event files of TensorBoard."""
        state = self.state
        if state.history:  # a killed process may have written rows of later steps, which are repeated
            on_rank_zero(lambda: self.folder.write_metrics(state.history))
        first = state.step + 1 if state.history else 0
        with event_log(self.folder.path, first, wanted=self.options.tensorboard) as self.log:
            yield

    def step(self, batch: ClipBatch, prefetch: Callable[[], None]) -> None:
        """Do one optimisation step."""
        started = time.perf_counter()
        state = self.state
        outcome = self.learner.step(batch, state.step, prefetch)
        if outcome.skipped and state.skipped_in_a_row + 1 >= MOST_SKIPPED:
            self._fail(batch)
        state.step += 1
        if outcome.skipped:
            state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
            what = f"step {state.step} skipped: loss {outcome.loss:g}, gradient norm {outcome.gradient_norm:g}"
            clips = _clips_of_all_processes(batch)
            more = f" and {len(clips) - _NAMED} more" if len(clips) > _NAMED else ""
            self.options.log(f"{what}; clips {', '.join(clips[:_NAMED])}{more}")
        else:
            state.loss_sum, state.loss_count = state.loss_sum + outcome.loss, state.loss_count + 1
            state.norm_sum += outcome.gradient_norm
            state.skipped_in_a_row = 0
        state.seconds += time.perf_counter() - started
        if self.options.on_step is not None:
            self.options.on_step(state, outcome.loss)

    def _fail(self, batch: ClipBatch) -> None:
        """Save the state before the failing step, add a row without scores to the metrics, and raise.

        The row is not part of the state, so a run that continues does not have it.
        """
        self.save()
        state = self.state
        best = (
            f"the best checkpoint so far is {self.folder.best(state.best_step)}"
            if state.best_step >= 0
            else "none is kept"
        )
        good, last = state.step - state.skipped_in_a_row, state.step + 1
        before = state.history[-1] if state.history else {}
        missing = dict.fromkeys([*scores_of(before), *([LOSS] if LOSS in before else [])], math.nan)
        at_last = replace(state, step=last, skipped=state.skipped + 1)
        row = row_of(at_last, learning_rate_at(state.step, self.config), missing)
        on_rank_zero(lambda: self.folder.write_metrics([*state.history, row]))
        self.log(row)
        raise TrainingError(
            f"loss or gradient was not finite {MOST_SKIPPED} times in a row, in steps {good + 1} to {last}: "
            f"{best}; the newest state has the weights of step {good}, from which no later step "
            "was finite; the same command stops here again: choose --learning-rate below "
            f"{self.config.learning_rate:g} and give --fresh or another --out; clips of step {last}: "
            f"{', '.join(_clips_of_all_processes(batch))}"
        )

    def validate(self, stop: StopRequest) -> None:
        """Score the model, keep the weights if they are to be kept, write the metrics, save the state.

        Weights are kept if they are the best so far or, with ``keep = "last"``, after the last step. At equal scores
        the lower validation loss is better, and any trained step is better than an untrained step 0.
        A signal ends the validation before its next batch; the validation is then due again. Several processes stop
        only after the validation, so the state is saved before it too.
        """
        if world_size() > 1:  # a scheduler may kill the other processes before the validation ends
            self.save()
        started = time.perf_counter()
        state = self.state
        try:
            scores = self.validation.scores_of(self.learner.network_to_score, stop.raise_if_stopped)
        except TrainingError:
            self.save()  # a repeated command fails at this validation without repeating steps
            raise
        state.seconds += time.perf_counter() - started
        score = scores[self.chosen_by]
        replaces_untrained = state.best_step == 0 and self.begins_untrained
        is_better_of_equals = replaces_untrained or scores.get(LOSS, math.nan) < state.best_loss
        is_best = score > state.best_score or (score == state.best_score and is_better_of_equals)
        if is_kept := self.is_over if self.config.keep == "last" else is_best:
            state.best_step, state.best_score = state.step, score
            state.best_loss = scores.get(LOSS, math.nan)
        row = row_of(state, learning_rate_at(max(0, state.step - 1), self.config), scores)
        state.history.append(row)
        state.loss_sum, state.norm_sum, state.loss_count = 0.0, 0.0, 0
        if is_kept:
            on_rank_zero(lambda: self.folder.keep_best(self.learner.network_to_score, state, self.chosen_by))
        on_rank_zero(lambda: self.folder.write_metrics(state.history))
        self.log(row)
        self.save()
        if self.options.on_validation is not None:
            self.options.on_validation(state)

    def save(self) -> None:
        """Save the state from which the run can resume."""
        on_rank_zero(lambda: self.folder.save(self.state, self.learner))


def _raise_if_stopped(stop: StopRequest) -> None:
    """Raise `Stopped` on all processes if one of them received a signal."""
    if any_of(stop.signal_number is not None):
        raise Stopped(stop.signal_number or signal.SIGTERM)


def _clips_of_all_processes(batch: ClipBatch) -> list[str]:
    return [clip_id for share in gather(batch.clip_ids) for clip_id in share]
