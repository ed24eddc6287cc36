"""The training recipe on the command line: which source of a setting takes precedence, and the help text."""

import json
import re
from dataclasses import fields

import click
import pytest

from epanns.cli.finetune import command as finetune
from epanns.cli.shared.training_options import Recipe
from epanns.cli.train import command as train
from epanns.training.config import PRESETS, RULES, TrainingConfig, option_of
from epanns.training.run_folder import RunFolder


@pytest.fixture
def asked(epanns, tiny_packs, tmp_path):
    """Start a training on the command line; return the settings that its folder holds."""

    def run(*options: object) -> dict[str, object]:
        command = ["train", "Cnn14_8k", "--width", 0.03, "--train", tiny_packs["train"], "--val", tiny_packs["val"]]
        code, _, stderr = epanns(*command, "--out", tmp_path / "run", "--fresh", *options)
        assert code == 0, stderr
        return json.loads((tmp_path / "run" / "training.json").read_text())["asked"]["training"]

    return run


SHORT = ("--iterations", 2, "--warmup-iterations", 0, "--batch-size", 4)


def test_option_overrides_environment_file_preset_and_default_in_this_order(asked, monkeypatch, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('preset = "short"\nclip-norm = 3.0\nema_decay = 0.3\nlearning_rate = 0.3\nspec-augment = false\n')
    monkeypatch.setenv("EPANNS_TRAIN_LEARNING_RATE", "0.2")
    monkeypatch.setenv("EPANNS_TRAIN_EMA_DECAY", "0.2")
    settings = asked("--config", file, "--ema-decay", 0.1, *SHORT)
    expected = {"ema_decay": 0.1, "learning_rate": 0.2, "clip_norm": 3.0, "spec_augment": False}
    assert {name: settings[name] for name in expected} == expected
    assert settings["schedule"] == PRESETS["short"].settings["schedule"] != TrainingConfig().schedule
    assert settings["sampler"] == TrainingConfig().sampler
    assert "preset" not in settings
    assert settings == asked("--preset", "short", "--no-spec-augment", "--clip-norm", 3, "--ema-decay", 0.1, *SHORT)


def test_a_preset_can_be_switched_off_setting_by_setting(asked):
    settings = asked("--preset", "short", "--ema-decay", 0, "--clip-norm", 0, "--schedule", "constant", *SHORT)
    plain = asked("--learning-rate", PRESETS["short"].settings["learning_rate"], *SHORT, "--validate-every", 250)
    assert settings == plain


def test_how_often_a_state_is_saved_is_no_part_of_the_run(asked, monkeypatch):
    steps, save = [], RunFolder.save

    def noting(folder, state, learner):
        steps.append(state.step)
        save(folder, state, learner)

    monkeypatch.setattr(RunFolder, "save", noting)
    often = asked("--save-every", 1, "--iterations", 3, "--batch-size", 4)
    assert steps == [0, 1, 2, 3]
    assert often == asked("--iterations", 3, "--batch-size", 4)
    assert steps == [0, 1, 2, 3, 0, 3]


@pytest.mark.parametrize("command", [train, finetune], ids=["train", "finetune"])
def test_the_help_shows_what_each_preset_sets(runner, command):
    text = runner.invoke(command, ["--help"]).output
    header, *rows = text.split("Settings of the presets (blank: as without preset):\n")[1].splitlines()
    names = header.split()
    assert names[0] == "default"
    recipe: Recipe = command.recipe
    starts = [header.index(name) for name in names]
    shown: dict[str, dict[str, str]] = {name: {} for name in names}
    for row in rows:
        for name, start, end in zip(names, starts, [*starts[1:], None], strict=True):
            if cell := row[start:end].strip():
                shown[name][row.split()[0].replace("-", "_")] = cell
    for name in names[1:]:
        assert f"\n  {name} " in text.split("Presets:")[1]
        values = {key: as_value(shown[name][key], value) for key, value in PRESETS[name].settings.items()}
        assert values == dict(PRESETS[name].settings)
        assert shown[name].keys() == PRESETS[name].settings.keys()
    assert shown["default"] and all(
        as_value(cell, recipe.default(key)) == recipe.default(key) for key, cell in shown["default"].items()
    )
    assert set(names[1:]) == {name for name in PRESETS if PRESETS[name].settings.keys() <= recipe.settings.keys()}


def as_value(cell: str, like: object) -> object:
    return cell == "yes" if isinstance(like, bool) else type(like)(cell)


def test_every_setting_is_an_option_with_its_default_in_the_help():
    known = {field.name for field in fields(TrainingConfig)}
    assert known == set(RULES)
    for command in (train, finetune):
        recipe: Recipe = command.recipe
        options = {item.opts[0]: item for item in command.params if isinstance(item, click.Option)}
        assert known - set(recipe.without) == recipe.settings.keys()
        for name in recipe.settings:
            assert re.search(r"[.!)]  \[default: .+\]$", options[option_of(name)].help), name
        placed = [name for names in command.sections.values() for name in names]
        assert len(placed) == len(set(placed))
        left = {item.opts[0] for item in command.params if isinstance(item, click.Option)} - {f"--{n}" for n in placed}
        assert left <= {"--config", "--debug", "--width"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedule", "cos"], "epanns: training: schedule='cos' (did you mean 'cosine'?): must be one of "),
        (["--clip-norm", "-1"], "clip_norm=-1.0: must be a finite number >= 0; 0 switches clipping off (--clip-norm)"),
        (["--batch-size", "5", "--accumulate", "2"], "accumulate=2: must divide batch_size=5 (--accumulate)"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_and_option(epanns, tiny_packs, tmp_path, options, message):
    packs = ["--train", tiny_packs["train"], "--val", tiny_packs["val"]]
    code, stdout, stderr = epanns("train", "Cnn14_8k", *packs, "--out", tmp_path / "run", *options)
    assert (code, stdout, stderr.count("\n")) == (1, "", 1)
    assert message in stderr
    assert not (tmp_path / "run").exists()


def test_a_preset_of_another_command_is_wrong_usage(epanns, tiny_packs, tmp_path):
    packs = ["--train", tiny_packs["train"], "--val", tiny_packs["val"]]
    code, _, stderr = epanns("train", "Cnn14_8k", *packs, "--out", tmp_path / "run", "--preset", "shrt")
    assert code == 2
    assert "Invalid value for '--preset': 'shrt' is not one of" in stderr


@pytest.mark.parametrize("command", [train, finetune], ids=lambda command: command.name)
def test_the_help_names_no_option_that_the_command_lacks(command):
    has = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}
    with click.Context(command) as context:
        has.update(name for item in command.get_params(context) for name in item.opts)
        text = re.sub(r"-\n\s+", "-", command.get_help(context))  # names that a line breaks
    assert set(re.findall(r"(?<!\w)--[a-z][a-z\d-]*", text)) <= has
    helped = {item.name: item.help for item in command.params if isinstance(item, click.Option)}
    assert ("checkpoint's" in helped["task"]) == (command is finetune)
