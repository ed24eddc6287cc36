"""An experiment in which any key has a value of any kind is read, or refused in one line."""

from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import ConfigError
from epanns.feedback import notes_to
from epanns.sweeps.experiment import Experiment, experiment_of, parse_experiment
from tests.any_value import ANY_VALUE
from tests.toml_text import altered, document

TRAINING = {
    **{"preset": "short", "iterations": 5, "batch_size": 4, "learning_rate": 0.1, "schedule": "cosine"},
    **{"warmup_iterations": 1, "mixup_alpha": 0.0, "spec_augment": False, "dropout": True, "sampler": "balanced"},
    **{
        "crop_seconds": 1.0,
        "short_clips": "pad",
        "validate_every": 1,
        "freeze_backbone": False,
        "task": "single-label",
    },
    **{"head_iterations": 1, "backbone_rate": 0.5, "precision": "float32", "compile": False, "accumulate": 2},
    **{"clip_norm": 1.0, "ema_decay": 0.5, "freeze_yamnet": False},
}
TAUGHT = {**TRAINING, "teacher": "dense", "distil_weight": 0.5, "feature_weight": 0.1, "teacher_precision": "bfloat16"}
GRID = {
    **{"ratio": [0.0, 0.5], "ratios": [{"conv_block3": 0.5}], "budget": ["macs 0.25"], "criterion": ["l1", "taylor"]},
    **{"layers": [["conv_block3"], ["conv_block4"]], "recover": ["none", "ls", "distil:20"], "calibration_clips": 20},
    **{
        "recovery": {"fit_to": "dense", "ridge": 0.1, "mixtures": 1, "rectify": 2, "seed": 0},
        "finetune": [TAUGHT],
        "seeds": [1],
    },
}
DATA = {
    **{"kind": "synthetic", "root": "here", "sample_rate": 32_000, "seconds": 1.0},
    **{"train": ["a"], "val": ["b"], "test": ["c", "d"], "synthetic": {"clips": 20, "classes": 3, "seed": 1}},
}
BASES = [
    {"model": "Cnn6", "width": 0.1, "training": TRAINING, "prune": True, "name": "small"},
    {"model": "LEAN", "yamnet": "y.npz", "prune": False},
    {"checkpoint": "base", "name": "given"},
]
EXPERIMENT = {
    **{"name": "t", "seeds": [0, 1], "data": DATA, "base": BASES, "grid": [GRID, {"ratio": [0.5]}]},
    **{"finetune": [TAUGHT, {"iterations": 3}], "evaluation": {"window": 1.0, "hop": 0.5, "aggregate": "mean_prob"}},
}
CONTENT = {"train": "1", "val": "2", "test": "3"}


def read(table: dict[str, object]) -> Experiment | None:
    """Return the experiment with all its trials made, or None after checking the error."""
    notes: list[str] = []
    try:
        with notes_to(notes.append):
            experiment = experiment_of(table, "t.toml")
    except ConfigError as error:
        assert str(error).startswith("t.toml: ") and str(error).isprintable()
        return None
    assert all(note.startswith("preset short: ") and note.isprintable() for note in notes)
    assert all(trial.trial_id for trial in experiment.trials(CONTENT, lambda path: path))
    return experiment


def test_the_experiment_that_is_altered_is_right():
    assert read(EXPERIMENT) is not None
    assert parse_experiment(document(EXPERIMENT), "t.toml") == experiment_of(EXPERIMENT, "t.toml")


@given(altered(EXPERIMENT))
def test_an_altered_experiment_is_read_or_refused_in_one_line(table):
    found = read(table)
    assert found is None or found.name == table["name"]


@given(altered(EXPERIMENT))
def test_an_altered_text_is_read_or_refused_in_one_line(table):
    try:
        parse_experiment(document(table), "t.toml")
    except ConfigError as error:
        assert str(error).startswith("t.toml: ") and str(error).isprintable()


@given(st.dictionaries(st.sampled_from([*EXPERIMENT]), ANY_VALUE))
def test_tables_of_anything_are_read_or_refused_in_one_line(table):
    assert read(table) is None
