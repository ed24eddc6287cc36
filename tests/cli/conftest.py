"""The command line as a user meets it, and single commands whose errors pass through."""

from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

from epanns.cli.main import main


@pytest.fixture
def epanns(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line; return exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code, *capsys.readouterr()

    return run


def output_of(command: click.Command, *arguments: object) -> str:
    """Run a command that must succeed; return its stdout. Exceptions are not turned into text."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout
