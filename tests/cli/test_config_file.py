"""Files of settings on the command line: any key with a value of any kind is read, or refused in one line."""

import json
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.cli.main import COMMANDS, cli
from epanns.cli.prune import read_between
from epanns.cli.shared.options import option_name
from epanns.errors import ConfigError, PruningError
from epanns.feedback import notes_to
from epanns.pruning.config import read_ratios
from epanns.safe_text import printable
from tests.any_value import ANY_VALUE
from tests.toml_text import altered, document

KEYS = [
    (name, option_name(item))
    for name in COMMANDS
    for item in cli.get_command(click.Context(cli), name).params
    if item.expose_value
]
BETWEEN = {
    "train": ["a"],
    "val": "b",
    "preset": "short",
    "iterations": 50,
    "sampler": "balanced",
    "task": "single-label",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


@given(key=st.sampled_from(KEYS), value=ANY_VALUE)
def test_any_option_of_any_command_is_read_from_a_file_or_refused_in_one_line(folder, key, value):
    name, option = key
    file = folder / "any.toml"
    file.write_text(document({option: value}), encoding="utf-8")
    command = cli.get_command(click.Context(cli), name)
    try:
        command.make_context(name, ["--config", str(file)])
    except ConfigError as error:
        assert str(error).isprintable()
    except click.UsageError as error:  # a required option is missing, a path does not exist
        assert "\n" not in error.message.split("Choose from:")[0].strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iterations = 2.0", "iterations=2.0: must be a whole number"),
        ("iterations = 1\nbatch_size = '4'", "batch_size='4': must be a whole number"),
        ("val = [['a']]", "val[0]=['a']: must be a path of at most 4,096 characters, without NUL"),
        ("val = 'a'", "val='a': must be a list of values"),
        ("sampler = ['balanced']", "sampler=['balanced']: must be text"),
        ("preset = 'shrt'", "preset='shrt' (did you mean 'short'?): must be one of panns, short"),
        ("learning-rate = nan", "learning_rate=nan: must be a number"),
        ("save_every = 0", "save_every=0: must be a whole number >= 1"),
        ("fresh = 1", "fresh=1: must be true or false"),
        ("out = 1979-05-27", "out=datetime.date(1979, 5, 27): must be a path"),
        ("save_every = 2\nsave-every = 2", "save_every is given twice, with - and with _: give it once"),
        ("iteration = 2", "unknown option 'iteration' (did you mean 'iterations'?)"),
        ("a = " + "[" * 99 + "]" * 99, "cannot be read as TOML (tables and lists are nested more than 64 deep)"),
    ],
)
def test_a_wrong_option_in_a_file_is_explained(epanns, tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    code, _, stderr = epanns("train", "--config", tmp_path / "c.toml")
    assert (code, stderr.count("\n")) == (1, 1)
    assert f"c.toml: {message}" in stderr


@given(altered(BETWEEN))
def test_a_file_of_a_training_between_rounds_is_read_or_refused_in_one_line(folder, table):
    file = folder / "between.toml"
    file.write_text(document(table), encoding="utf-8")
    notes: list[str] = []
    try:
        with notes_to(notes.append):
            packs, _, _ = read_between(file)
        assert packs.keys() == {"train", "val"} and all(packs.values())
    except ConfigError as error:
        assert str(error).startswith(f"{file}: ") and str(error).isprintable()


@given(altered({"conv_block1": 0.5, "conv_block2": {"conv1": 0.5}}), st.sampled_from(["toml", "json"]))
def test_a_file_of_ratios_is_read_or_refused_in_one_line(folder, table, form):
    file = folder / f"ratios.{form}"
    file.write_text(document(table) if form == "toml" else json.dumps(table, default=str), encoding="utf-8")
    try:
        assert all(isinstance(ratio, int | float) for ratio in read_ratios(file).values())
    except PruningError as error:
        assert str(error).startswith(f"{file}: ") and printable(str(error)) == str(error)
