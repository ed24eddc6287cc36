"""What a person sees of a training run: a bar on a terminal, elsewhere a line for each validation."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from epanns.cli.terminal import write_message
from epanns.safe_text import printable
from epanns.training.config import TrainingConfig
from epanns.training.metrics import scores_of

if TYPE_CHECKING:
    from epanns.training.run_options import RunOptions
    from epanns.training.state import TrainingState


class Pace:
    """How fast this call is, whatever earlier calls of the run were.

    Attributes:
        steps: Done in this call, less the first one of a resumed run, which the clock has not seen begin.
        stepping: Seconds they took, waiting for clips included.
    """

    def __init__(self, config: TrainingConfig, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self.steps, self.stepping = 0, 0.0
        self._validations, self._validating = 0, 0.0
        self._last: float | None = None

    def stepped(self) -> None:
        """Note that a step ended."""
        if (seconds := self._since_last()) is not None:
            self.steps, self.stepping = self.steps + 1, self.stepping + seconds

    def validated(self) -> None:
        """Note that a validation ended."""
        if (seconds := self._since_last()) is not None:
            self._validations, self._validating = self._validations + 1, self._validating + seconds

    def _since_last(self) -> float | None:
        now = self._clock()
        last, self._last = self._last, now
        return None if last is None else now - last

    @property
    def clips_per_second(self) -> float:
        """Clips that the loss saw, in a second of steps; NaN before the first one."""
        return self.steps * self._config.batch_size / self.stepping if self.stepping else math.nan

    def seconds_left(self, step: int) -> float:
        """Return the time that the steps and validations after `step` will take; NaN before the first step."""
        last, every = self._config.iterations, self._config.validate_every
        if step >= last:
            return 0.0
        validations = math.ceil(last / every) - step // every
        per_validation = self._validating / self._validations if self._validations else 0.0
        return (last - step) * self.stepping / self.steps + validations * per_validation if self.steps else math.nan


class Watch:
    """Draws what the loop tells."""

    def __init__(self, config: TrainingConfig, stream: TextIO, clock: Callable[[], float]) -> None:
        self._config, self._stream, self._clock = config, stream, clock
        self._draws = stream.isatty()
        self._bar: Any = None
        self._state: TrainingState | None = None
        self._pace = Pace(config, clock)

    def run_options(self, **settings: Any) -> "RunOptions":
        """Return how a run is carried out, with these settings of `RunOptions`, that is watched here."""
        from epanns.training.run_options import RunOptions

        return RunOptions(on_step=self.on_step, on_validation=self.on_validation, log=self.log, **settings)

    def on_step(self, state: "TrainingState", loss: float) -> None:
        """Move the bar."""
        self._begin(state)
        self._pace.stepped()
        if self._bar is not None:
            words = "  ".join([f"loss {loss:.4f}", *self._scores(state), *self._speed(state)])
            self._bar.set_postfix_str(words, refresh=False)  # the bar decides when to draw
            self._bar.update(state.step - self._bar.n)

    def on_validation(self, state: "TrainingState") -> None:
        """Write a line, or show the scores beside the bar."""
        self._begin(state)
        self._pace.validated()
        if self._bar is not None:
            self._bar.set_postfix_str("  ".join([*self._scores(state), *self._speed(state)]))
            return
        row = state.history[-1]
        parts = [f"step {state.step:,} of {self._config.iterations:,}"]
        parts += [] if math.isnan(row["loss"]) else [f"loss {row['loss']:.4f}"]
        parts += [*self._scores(state), f"best {state.best_score:.4f} at {state.best_step:,}"]
        parts += [f"rate {row['learning_rate']:.3g}", *self._speed(state)]
        self.log("  ".join(parts))

    def log(self, line: str) -> None:
        """Write a line for people, above the bar where there is one."""
        if self._bar is None:
            write_message(line, stream=self._stream)
        else:
            self._bar.write(printable(line, lines=True), file=self._stream)

    def close(self) -> None:
        """Leave the bar as it is and go on below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, state: "TrainingState") -> None:
        """Notice the first word of a run, of which there may be several, one after the other."""
        if state is self._state:
            return
        self.close()
        self._state, self._pace = state, Pace(self._config, self._clock)
        if self._draws:
            from tqdm import tqdm

            shape = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
            kind = {"total": self._config.iterations, "initial": state.step, "bar_format": shape}
            self._bar = tqdm(file=self._stream, dynamic_ncols=True, **kind)

    def _scores(self, state: "TrainingState") -> list[str]:
        row = state.history[-1] if state.history else {}
        return [f"{name} {value:.4f}" for name, value in scores_of(row).items()]

    def _speed(self, state: "TrainingState") -> list[str]:
        speed, left = self._pace.clips_per_second, self._pace.seconds_left(state.step)
        shown = [] if math.isnan(speed) else [f"{speed:,.{1 if speed < 10 else 0}f} clips/s"]
        return [*shown, f"{describe_seconds(left)} left"] if left > 0 else shown


@contextmanager
def watching(config: TrainingConfig, stream: TextIO | None = None) -> Iterator[Watch]:
    """Yield what draws a run, or several with the same settings, on stderr or another stream."""
    watch = Watch(config, stream or sys.stderr, time.perf_counter)
    try:
        yield watch
    finally:
        watch.close()


def describe_seconds(seconds: float) -> str:
    """Return a length of time in words, as exact as a guess is: ``40 s``, ``12 min``, ``3 h 05 min``, ``4 days``."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{round(minutes / 1440)} days"
