"""What a person sees of a training run: on a terminal, and where there is none."""

import io
import math

import pytest

from epanns.cli.shared.training_progress import Pace, ProgressDisplay, describe_seconds
from epanns.training.config import TrainingConfig
from epanns.training.resume import TrainingState

CONFIG = TrainingConfig(iterations=10, batch_size=8, validate_every=4, mixup_alpha=1.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Return the lines that stand on the screen, as far as the carriage return decides."""
        lines = [""]
        for part in self.getvalue().replace("\n", "\f\n").splitlines(keepends=True):
            for piece in part.split("\r"):
                text = piece.strip("\f\n")
                lines[-1] = text + lines[-1][len(text) :] if text else lines[-1]
            lines += [""] if part.endswith("\n") else []
        return [line.rstrip() for line in lines]


def run(
    display: ProgressDisplay, clock: Clock, *, first: int = 0, step_seconds: float = 2.0, last: int = 10
) -> TrainingState:
    """Display a run from `first` to `last`, whose validations take 5 s."""
    state = TrainingState(step=first, best_step=0, best_score=0.25)

    def validate() -> None:
        clock.now += 5.0
        loss = state.step and 1 / state.step
        row = {"step": state.step, "loss": loss or math.nan, "gradient_norm": 2.0, "learning_rate": 0.001}
        state.history.append({**row, "mAP": 0.25, "skipped": 0, "seconds": clock.now, "data_seconds": 1.0})
        display.on_validation(state)

    if first == 0:
        validate()
    while state.step < last:
        clock.now += step_seconds
        state.step += 1
        display.on_step(state, 0.5)
        if state.step == 1:
            display.log("step 1 skipped: loss nan")
        if state.step % CONFIG.validate_every == 0 or state.step == CONFIG.iterations:
            validate()
    display.close()
    return state


def test_without_a_terminal_there_is_one_line_for_each_validation():
    clock, stream = Clock(), io.StringIO()
    run(ProgressDisplay(CONFIG, stream, clock), clock)
    assert stream.getvalue().splitlines() == [
        "step 0 of 10  mAP 0.2500  best 0.2500 at 0  rate 0.001",
        "step 1 skipped: loss nan",
        "step 4 of 10  loss 0.2500  mAP 0.2500  best 0.2500 at 0  rate 0.001  4.0 clips/s  22 s left",
        "step 8 of 10  loss 0.1250  mAP 0.2500  best 0.2500 at 0  rate 0.001  4.0 clips/s  9 s left",
        "step 10 of 10  loss 0.1000  mAP 0.2500  best 0.2500 at 0  rate 0.001  4.0 clips/s",
    ]


def test_on_a_terminal_the_bar_stays_below_logged_lines():
    clock, stream = Clock(), Terminal()
    run(ProgressDisplay(CONFIG, stream, clock), clock, last=7)
    told, bar, rest = stream.screen()
    assert (told, rest) == ("step 1 skipped: loss nan", "")
    assert bar.startswith(" 70% |")
    assert bar.endswith("| 7/10, loss 0.5000  mAP 0.2500  4.0 clips/s  16 s left")


def test_work_of_earlier_calls_counts_in_neither_speed_nor_time():
    clock, stream = Clock(), Terminal()
    display = ProgressDisplay(CONFIG, stream, clock)
    run(display, clock, first=5, step_seconds=4.0, last=7)
    assert stream.screen()[-2].endswith("| 7/10, loss 0.5000  2.0 clips/s  12 s left")
    clock.now += 1000  # another run begins, as between the steps of a pruning
    run(display, clock, step_seconds=1.0, last=7)
    assert stream.screen()[-2].endswith("| 7/10, loss 0.5000  mAP 0.2500  8.0 clips/s  13 s left")


@pytest.mark.parametrize(("every", "validations"), [(1, 9), (3, 4), (4, 3), (10, 1), (100, 1)])
def test_validations_to_come_are_part_of_the_time_left(every, validations):
    clock = Clock()
    pace = Pace(TrainingConfig(iterations=10, validate_every=every), clock)
    pace.validated()
    clock.now += 7
    pace.validated()
    clock.now += 3
    pace.stepped()
    assert pace.seconds_left(1) == 9 * 3 + validations * 7
    assert pace.seconds_left(10) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5_900, "98 min"), (6_300, "1 h 45 min"), (200_000, "2 days")],
)
def test_durations_are_rounded(seconds, words):
    assert describe_seconds(seconds) == words
