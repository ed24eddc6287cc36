"""Options that start processes or threads."""

import os

import click
import pytest

from epanns.cli.main import COMMANDS, LazyGroup
from epanns.cli.shared.options import at_most_cores

STARTING = {"--jobs", "--workers", "--threads"}


def options_that_start_something():
    group, context = LazyGroup(), click.Context(click.Command("epanns"))
    commands = {name: group.get_command(context, name) for name in COMMANDS}
    return [
        pytest.param(option, id=f"{name} {opt}")
        for name, command in commands.items()
        for option in command.params
        for opt in option.opts
        if opt in STARTING
    ]


@pytest.mark.parametrize("option", options_that_start_something())
def test_every_option_that_starts_processes_or_threads_is_bounded(option, capsys, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    context = click.Context(click.Command("any"))
    for asked, used in ((3, 3), (4, 3), (1_000, 3), (None, None)):
        given = option.callback(context, option, asked)
        assert given == used
        line = f"{option.opts[0]} {asked}: bounded to 3, the number of cores that this process may use\n"
        assert capsys.readouterr().err == (line if asked != used else "")


def test_the_bound_holds_for_values_of_a_config_file_too(tmp_path, monkeypatch, capsys):
    from epanns.cli.shared.options import EpannsCommand

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    seen = []
    jobs = click.Option(["--jobs"], type=click.IntRange(1), default=1, callback=at_most_cores)
    command = EpannsCommand("pack", params=[jobs], callback=lambda jobs: seen.append(jobs))
    (tmp_path / "c.toml").write_text("jobs = 1_000\n")
    command.main(["--config", str(tmp_path / "c.toml")], standalone_mode=False)
    assert seen == [1]
    assert "--jobs 1000: bounded to 1" in capsys.readouterr().err
