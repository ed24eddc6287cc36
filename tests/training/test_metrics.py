"""The metrics of a run: the same rows in each file, also after it was killed and resumed."""

import csv
import json
import math
import re
import signal
import sys

import pytest

from epanns.errors import ConfigError, DataError, Interrupted, OutputError
from epanns.state_files import saved_states
from epanns.training import metrics
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.loop import RunOptions
from epanns.training.resume import TrainingState
from epanns.training.run_folder import RunFolder
from epanns.training.validation import Validation

CONFIG = TrainingConfig(iterations=6, batch_size=4, validate_every=2, learning_rate=5e-3)
COLUMNS = ["step", "loss", "gradient_norm", "learning_rate", "mAP", "best_step", "skipped", "seconds", "data_seconds"]
VALIDATION = Validation(lambda model: {"mAP": float(model.fc_audioset.weight.detach().abs().mean())}, {})


@pytest.fixture
def train_run(make_model, train, tmp_path):
    """Run, or go on; `stop` is the step after which a signal comes."""

    def run(name: str, *, stop: int | None = None, **options) -> list[dict]:
        def on_step(state, loss):
            if state.step == stop:
                signal.raise_signal(signal.SIGTERM)

        options = RunOptions(on_step=on_step, **options)
        finetune(make_model(), train, CONFIG, tmp_path / name, validation=VALIDATION, options=options)
        return timeless(metrics.read_metrics(tmp_path / name))

    return run


def timeless(rows) -> list[dict]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def test_both_files_hold_the_same_rows(train_run, tmp_path):
    rows = train_run("run")
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    read = metrics.read_metrics(tmp_path / "run")
    table = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert list(table[0]) == list(read[0]) == COLUMNS
    assert [{name: float(text) if text else None for name, text in row.items()} for row in table] == [
        {name: None if value is None else float(f"{value:.6g}") for name, value in row.items()} for row in read
    ]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert "NaN" not in "".join(lines)
    assert json.loads(lines[0])["loss"] is json.loads(lines[0])["gradient_norm"] is None
    assert all(row["gradient_norm"] > 0 for row in read[1:])
    assert all(0 < row["data_seconds"] < row["seconds"] for row in read[1:])


def test_scores_survive_a_row():
    scores = {"mAP": 0.25, "accuracy": 0.5}
    row = metrics.row_of(TrainingState(step=2, loss_sum=3.0, norm_sum=5.0, loss_count=2), 0.1, scores)
    assert metrics.scores_of(row) == scores
    assert [row[name] for name in ("step", "loss", "gradient_norm", "learning_rate")] == [2, 1.5, 2.5, 0.1]
    assert math.isnan(metrics.row_of(TrainingState(), 0.1, scores)["loss"])


def test_the_gradient_norm_is_the_mean_over_the_steps_since_the_last_row(train_run, monkeypatch):
    from epanns.training.learner import Learner

    step, norms = Learner.step, []

    def noting(self, *arguments):
        outcome = step(self, *arguments)
        norms.append(outcome.gradient_norm)
        return outcome

    monkeypatch.setattr(Learner, "step", noting)
    rows = train_run("run")
    assert [row["gradient_norm"] for row in rows[1:]] == pytest.approx(
        [(norms[first] + norms[first + 1]) / 2 for first in (0, 2, 4)]
    )


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_run_has_the_rows_of_a_run_without_a_stop(train_run, tmp_path, stop):
    whole = train_run("whole")
    with pytest.raises(Interrupted):
        train_run("stopped", stop=stop)
    assert timeless(metrics.read_metrics(tmp_path / "stopped")) == whole[: stop // 2 + 1]
    assert train_run("stopped") == whole


def test_rows_of_repeated_steps_are_removed_on_resuming(train_run, tmp_path):
    """The last state is lost: the run resumes from the state before, which has fewer rows."""
    with pytest.raises(Interrupted):
        train_run("run", stop=5)
    newest, before = saved_states(tmp_path / "run")[:2]
    newest.write_bytes(b"damaged")
    assert before.name.startswith("state-00000004")
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in (0, 2, 4, 6)))
    with pytest.raises(Interrupted):
        train_run("run", stop=5)
    assert [row["step"] for row in metrics.read_metrics(tmp_path / "run")] == [0, 2, 4]


@pytest.mark.parametrize("text", ["", "{", "[1]\n", '{"step": "x"}\n'])
def test_an_invalid_metrics_file_is_refused(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.jsonl[:,].*: restore the file, or delete it with its run$"):
        metrics.read_metrics(tmp_path)


class TestTensorBoard:
    def scalars(self, run) -> dict[str, list[tuple[int, float]]]:
        """Read the events with TensorBoard's own reader, which hides what was written and is done again."""
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = reader.EventAccumulator(str(run / "tensorboard"))
        events.Reload()
        return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    @pytest.mark.parametrize("lost", [False, True], ids=["stopped", "fell back"])
    def test_events_are_the_rows_also_after_a_stop(self, train_run, tmp_path, lost, monkeypatch):
        pytest.importorskip("tensorboard")
        run = tmp_path / "run"
        with pytest.raises(Interrupted):
            train_run("run", stop=5, tensorboard=True)
        if lost:  # what was written of steps 4 and 5 is done again
            for state in saved_states(run)[:1]:
                state.unlink()
            for state in saved_states(run)[:1]:
                state.write_bytes(b"damaged")
            with pytest.raises(Interrupted):
                train_run("other", stop=3)
            for state in saved_states(tmp_path / "other"):
                state.replace(run / state.name)
        for file in (run / "tensorboard").iterdir():  # the reader takes files by name, which has only whole seconds
            file.rename(file.with_name(file.name.replace("tfevents.", "tfevents.0")))
        rows = train_run("run", tensorboard=True)
        assert len(list((run / "tensorboard").iterdir())) == 2
        scalars = self.scalars(run)
        assert set(scalars) == set(COLUMNS) - {"step"}
        for name in ("loss", "gradient_norm", "learning_rate", "mAP"):
            expected = [(row["step"], pytest.approx(row[name])) for row in rows if row[name] is not None]
            assert scalars[name] == expected

    def test_without_the_package_it_is_refused_with_the_command_that_installs_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        monkeypatch.setattr("epanns.training.metrics.is_installed", lambda name: False)
        with pytest.raises(
            ConfigError, match=re.escape('needs the package tensorboard: pip install -e ".[tensorboard]"')
        ):
            RunOptions(tensorboard=True)

    def test_starting_over_removes_event_files_and_nothing_else(self, train_run, tmp_path):
        run = tmp_path / "run"
        train_run("run")
        (run / "tensorboard").mkdir()
        (run / "tensorboard" / "events.out.tfevents.1.host.2.3").write_bytes(b"")
        (run / "learning_curve.svg").write_text("<svg/>")
        (run / "tensorboard" / "notes.txt").write_text("mine")
        with pytest.raises(OutputError, match="holds 'tensorboard/notes.txt', which is no part of a run"):
            RunFolder(run, {}).start_over()
        assert (run / "model.safetensors").exists()
        (run / "tensorboard" / "notes.txt").unlink()
        RunFolder(run, {}).start_over()
        assert list(run.iterdir()) == []
