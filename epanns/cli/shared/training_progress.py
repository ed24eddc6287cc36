"""Show the progress of a training run: a bar on a terminal, elsewhere a line for each validation."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from epanns.cli.shared.terminal import write_message
from epanns.safe_text import printable
from epanns.training.config import TrainingConfig
from epanns.training.metrics import scores_of

if TYPE_CHECKING:
    from epanns.training.loop import RunOptions
    from epanns.training.resume import TrainingState


class Pace:
    """Speed of the run since this process began or resumed it.

    Attributes:
        steps: Number of optimisation steps that were timed: all but the first.
        stepping: Seconds that they took, with the loading of clips.
    """

    def __init__(self, config: TrainingConfig, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self.steps, self.stepping = 0, 0.0
        self._validations, self._validating = 0, 0.0
        self._last: float | None = None

    def stepped(self) -> None:
        """Add the time of an optimisation step that ended."""
        if (seconds := self._since_last()) is not None:
            self.steps, self.stepping = self.steps + 1, self.stepping + seconds

    def validated(self) -> None:
        """Add the time of a validation that ended."""
        if (seconds := self._since_last()) is not None:
            self._validations, self._validating = self._validations + 1, self._validating + seconds

    def _since_last(self) -> float | None:
        now = self._clock()
        last, self._last = self._last, now
        return None if last is None else now - last

    @property
    def clips_per_second(self) -> float:
        """Clips of the loss per second of optimisation steps; NaN before the first."""
        return self.steps * self._config.batch_size / self.stepping if self.stepping else math.nan

    def seconds_left(self, step: int) -> float:
        """Return the expected seconds of the steps and validations after `step`; NaN before the first step."""
        last, every = self._config.iterations, self._config.validate_every
        if step >= last:
            return 0.0
        validations = math.ceil(last / every) - step // every
        per_validation = self._validating / self._validations if self._validations else 0.0
        return (last - step) * self.stepping / self.steps + validations * per_validation if self.steps else math.nan


class ProgressDisplay:
    """Displays a run through the callbacks of `RunOptions`."""

    def __init__(self, config: TrainingConfig, stream: TextIO, clock: Callable[[], float]) -> None:
        self._config, self._stream, self._clock = config, stream, clock
        self._draws = stream.isatty()
        self._bar: Any = None
        self._state: TrainingState | None = None
        self._pace = Pace(config, clock)

    def run_options(self, **settings: Any) -> "RunOptions":
        """Return `RunOptions` with the callbacks of this display and further settings."""
        from epanns.training.loop import RunOptions

        return RunOptions(on_step=self.on_step, on_validation=self.on_validation, log=self.log, **settings)

    def on_step(self, state: "TrainingState", loss: float) -> None:
        """Advance the bar after an optimisation step."""
        self._begin(state)
        self._pace.stepped()
        if self._bar is not None:
            words = "  ".join([f"loss {loss:.4f}", *self._scores(state), *self._speed(state)])
            self._bar.set_postfix_str(words, refresh=False)  # the bar decides when to draw
            self._bar.update(state.step - self._bar.n)

    def on_validation(self, state: "TrainingState") -> None:
        """Write a line after a validation, or show its scores beside the bar."""
        self._begin(state)
        self._pace.validated()
        if self._bar is not None:
            self._bar.set_postfix_str("  ".join([*self._scores(state), *self._speed(state)]))
            return
        row = state.history[-1]
        parts = [f"step {state.step:,} of {self._config.iterations:,}"]
        parts += [] if math.isnan(row["loss"]) else [f"loss {row['loss']:.4f}"]
        parts += self._scores(state)
        parts += [f"best {state.best_score:.4f} at {state.best_step:,}"] if state.best_step >= 0 else []
        parts += [f"rate {row['learning_rate']:.3g}", *self._speed(state)]
        self.log("  ".join(parts))

    def log(self, message: str) -> None:
        """Write a line, above the bar if there is one."""
        if self._bar is None:
            write_message(message, stream=self._stream)
        else:
            self._bar.write(printable(message, lines=True), file=self._stream)

    def close(self) -> None:
        """Close the bar; later output is below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, state: "TrainingState") -> None:
        """Start a new bar and clock at the first callback of a run; several runs may follow each other."""
        if state is self._state:
            return
        self.close()
        self._state, self._pace = state, Pace(self._config, self._clock)
        if self._draws:
            from tqdm import tqdm

            shape = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
            self._bar = tqdm(
                file=self._stream,
                dynamic_ncols=True,
                total=self._config.iterations,
                initial=state.step,
                bar_format=shape,
            )

    def _scores(self, state: "TrainingState") -> list[str]:
        row = state.history[-1] if state.history else {}
        return [f"{name} {value:.4f}" for name, value in scores_of(row).items()]

    def _speed(self, state: "TrainingState") -> list[str]:
        speed, left = self._pace.clips_per_second, self._pace.seconds_left(state.step)
        shown = [] if math.isnan(speed) else [f"{speed:,.{1 if speed < 10 else 0}f} clips/s"]
        return [*shown, f"{describe_seconds(left)} left"] if left > 0 else shown


@contextmanager
def training_progress(config: TrainingConfig, stream: TextIO | None = None) -> Iterator[ProgressDisplay]:
    """Yield a display on stderr or another stream, for one or several runs with the same settings."""
    display = ProgressDisplay(config, stream or sys.stderr, time.perf_counter)
    try:
        yield display
    finally:
        display.close()


def describe_seconds(seconds: float) -> str:
    """Return a duration in words, rounded: ``40 s``, ``12 min``, ``3 h 05 min``, ``4 days``."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{round(minutes / 1440)} days"
