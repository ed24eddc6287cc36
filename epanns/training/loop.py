"""The training loop, to be read from top to bottom."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace

from epanns.data.dataset import ClipBatch, PackDataset
from epanns.data.loader import make_loader
from epanns.data.sampler import StepBatches, make_stream
from epanns.distributed import any_of, gather, on_rank_zero, world_size
from epanns.errors import Interrupted, TrainingError
from epanns.labels import DECISIVE_SCORES
from epanns.signals import Stopped, StopRequest
from epanns.training.ahead import BatchesAhead
from epanns.training.events import event_log
from epanns.training.folder import RunFolder
from epanns.training.learner import Learner
from epanns.training.metrics import LOSS, row_of, scores_of
from epanns.training.parallel import require_same_step
from epanns.training.run_options import RunOptions
from epanns.training.schedule import learning_rate_at
from epanns.training.state import TrainingState
from epanns.training.validation import Validation

MOST_SKIPPED = 5  # steps in a row without a finite loss; then the run is lost
_NAMED = 4  # clips of a step that was skipped


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
        """Whether a validation is due at this step and was not done."""
        validated = self.state.history[-1]["step"] if self.state.history else -1
        return validated < self.state.step and (self.state.step % self.config.validate_every == 0 or self.is_over)

    def to_the_end(self, dataset: PackDataset, stop: StopRequest) -> None:
        """Do the steps and validations that are left.

        Raises:
            Interrupted: At the next safe point after a signal; the state is saved.
        """
        try:
            self._go_on(dataset, stop)
        except Stopped as stopped:
            self.save()
            raise Interrupted(
                stopped.signal_number,
                f"stopped by signal {stopped.signal_number} at step {self.state.step} of {self.config.iterations}; "
                f"{self.folder.kept()}",
            ) from None

    def _go_on(self, dataset: PackDataset, stop: StopRequest) -> None:
        _obey(stop)
        if self.is_to_validate:
            self.validate(stop)
        heard = dataset.with_crop(self.config.crop)
        with closing(make_loader(heard, self._batches(dataset), workers=self.options.workers)) as batches:
            ahead = BatchesAhead(batches, self.learner.device)
            for batch in self._waiting_for(ahead):
                self.step(batch, ahead.fetch)
                if self.is_to_validate:
                    self.validate(stop)
                elif self.state.step % self.options.save_every == 0:
                    self.save()
                if not self.is_over:
                    _obey(stop)

    def _batches(self, dataset: PackDataset) -> StepBatches:
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
            on_rank_zero(lambda: self.folder.write_metrics(state.history))
        first = state.step + 1 if state.history else 0
        with event_log(self.folder.path, first, wanted=self.options.tensorboard) as self.log:
            yield

    def _waiting_for(self, ahead: BatchesAhead) -> Iterator[ClipBatch]:
        """Pass batches on and count the time until they come."""
        while True:
            started = time.perf_counter()
            batch = next(ahead, None)
            self.state.seconds += time.perf_counter() - started
            self.state.data_seconds, ahead.waited = self.state.data_seconds + ahead.waited, 0.0
            if batch is None:
                return
            yield batch

    def step(self, batch: ClipBatch, meanwhile: Callable[[], None]) -> None:
        """Do one optimisation step."""
        started = time.perf_counter()
        state = self.state
        outcome = self.learner.step(batch, state.step, meanwhile)
        if outcome.skipped and state.skipped_in_a_row + 1 >= MOST_SKIPPED:
            self._give_up(batch)
        state.step += 1
        if outcome.skipped:
            state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
            what = f"step {state.step} skipped: loss {outcome.loss:g}, gradient norm {outcome.gradient_norm:g}"
            clips = _clips_of_all(batch)
            more = f" and {len(clips) - _NAMED} more" if len(clips) > _NAMED else ""
            self.options.log(f"{what}; clips {', '.join(clips[:_NAMED])}{more}")
        else:
            state.loss_sum, state.loss_count = state.loss_sum + outcome.loss, state.loss_count + 1
            state.norm_sum += outcome.gradient_norm
            state.skipped_in_a_row = 0
        state.seconds += time.perf_counter() - started
        if self.options.on_step is not None:
            self.options.on_step(state, outcome.loss)

    def _give_up(self, batch: ClipBatch) -> None:
        """Save the state before the step that was one too many: the same command comes to it again at once.

        The metrics get a row without scores, for that step; a run that goes on does without.
        """
        self.save()
        state, best = self.state, self.folder.best(self.state.best_step)
        good, last = state.step - state.skipped_in_a_row, state.step + 1
        before = state.history[-1] if state.history else {}
        missing = dict.fromkeys([*scores_of(before), *([LOSS] if LOSS in before else [])], math.nan)
        at_last = replace(state, step=last, skipped=state.skipped + 1)
        row = row_of(at_last, learning_rate_at(state.step, self.config), missing)
        on_rank_zero(lambda: self.folder.write_metrics([*state.history, row]))
        self.log(row)
        raise TrainingError(
            f"loss or gradient was not finite {MOST_SKIPPED} times in a row, in steps {good + 1} to {last}: the best "
            f"checkpoint so far is {best}; the newest state has the weights that step {good} left, on which no step "
            "since was finite; the same command stops here again: choose --learning-rate below "
            f"{self.config.learning_rate:g} and give --fresh or another --out; clips of step {last}: "
            f"{', '.join(_clips_of_all(batch))}"
        )

    def validate(self, stop: StopRequest) -> None:
        """Score the model, keep the weights if they are the best so far, write the metrics, save the state.

        A signal ends it before the next batch; it is then still due. Several processes obey one only behind it, so
        the state is saved before it too.
        """
        if world_size() > 1:  # what stops them leaves the others no time to wait for the end of the validation
            self.save()
        started = time.perf_counter()
        state = self.state
        try:
            scores = self.validation.scores_of(self.learner.network_to_score, stop.raise_if_stopped)
        except TrainingError:
            self.save()  # the same command comes to it again at once
            raise
        state.seconds += time.perf_counter() - started
        if is_best := self._is_best(scores):
            state.best_step, state.best_score = state.step, scores[self.chosen_by]
            state.best_loss = scores.get(LOSS, math.nan)
        row = row_of(state, learning_rate_at(max(0, state.step - 1), self.config), scores)
        state.history.append(row)
        state.loss_sum, state.norm_sum, state.loss_count = 0.0, 0.0, 0
        if is_best:
            on_rank_zero(lambda: self.folder.keep_best(self.learner.network_to_score, state, self.chosen_by))
        on_rank_zero(lambda: self.folder.write_metrics(state.history))
        self.log(row)
        self.save()
        if self.options.on_validation is not None:
            self.options.on_validation(state)

    def _is_best(self, scores: Mapping[str, float]) -> bool:
        """Return whether this step replaces the best one: by its score, or at equal scores by its validation loss.

        An untrained step 0 yields to every trained step of the same score, whatever its loss.
        """
        state, score = self.state, scores[self.chosen_by]
        if score != state.best_score:
            return score > state.best_score
        yields = state.best_step == 0 and self.begins_untrained
        return yields or scores.get(LOSS, math.nan) < state.best_loss

    def save(self) -> None:
        """Save what the run needs to go on."""
        on_rank_zero(lambda: self.folder.save(self.state, self.learner))


def _obey(stop: StopRequest) -> None:
    """Stop all processes where a signal came to one."""
    if any_of(stop.signal_number is not None):
        raise Stopped(stop.signal_number or signal.SIGTERM)


def _clips_of_all(batch: ClipBatch) -> list[str]:
    return [clip_id for share in gather(batch.clip_ids) for clip_id in share]
