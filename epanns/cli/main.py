"""The `epanns` command: a static table of commands, each imported when it is used."""

import importlib
import io
import os
import signal
import sys
import traceback
from typing import Any

import click

from epanns.cli import IS_PROGRAM
from epanns.cli.options import report_once, write_error
from epanns.cli.terminal import prepare_streams, write_message
from epanns.errors import EpannsError, did_you_mean

# name -> (module, line of help); the help stands here so that `epanns --help` imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "Train, prune, recover, fine-tune and report on generated sound, in minutes."),
    "doctor": ("doctor", "Check packages, threads, GPU and extras on this machine."),
    "models": ("models", "List the networks epanns can build and the released files it knows."),
    "import": ("import_", "Turn a released PANNs or E-PANNs file into a checkpoint."),
    "info": ("info", "Show what a checkpoint holds and where it comes from."),
    "profile": ("profile", "Count parameters, bytes and multiply-adds; measure latency."),
    "data": ("data", "Read a data set in its published layout into one manifest."),
    "pack": ("pack", "Decode, resample and pack the clips of a manifest."),
    "verify": ("verify", "Check every clip and rule of a pack."),
    "train": ("train", "Train a network of the zoo from random weights."),
    "prune": ("prune", "Remove the least important filters of a checkpoint."),
    "sensitivity": ("sensitivity", "Measure what pruning each layer alone costs in mAP."),
    "finetune": ("finetune", "Go on training a checkpoint, also with new classes."),
    "evaluate": ("evaluate", "Measure mAP, mAUC and d-prime on a pack."),
    "export": ("export", "Write a checkpoint as ONNX, in float32 and int8."),
    "tag": ("tag", "Name what is heard in audio files of any length and rate."),
    "sweep": ("sweep", "Run a grid of pruning trials from a TOML file."),
    "report": ("report", "Turn run records into tables and figures."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None where the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"epanns.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Offer the nearest name where a command is unknown."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"no such command {args[0]!r}{did_you_mean(args[0], COMMANDS)}; see epanns --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"auto_envvar_prefix": "EPANNS", "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="epanns-pruning", prog_name="epanns")
def cli() -> None:
    """Structured pruning of PANNs audio taggers: rank, remove, recover, fine-tune, report."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the one place where an error becomes a line on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _interrupts_are(signal.SIG_DFL, signal.default_int_handler)
        prepare_streams()
        code = cli.main(args=arguments, standalone_mode=False)
    except EpannsError as error:
        _trace(arguments)
        report_once(error)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing permission, a path through a file: the system's own words say it
        _trace(arguments)
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        write_error(f"{place}{error.strerror or error}; check the path, its permissions and the disk")
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        write_error("stopped")
        sys.exit(130)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        write_message(shown.getvalue().removesuffix("\n"))
        sys.exit(error.exit_code)
    except Exception as error:
        if not _wants_memory(error):
            raise  # a mistake in epanns: its traceback is wanted
        _trace(arguments)
        write_error(f"out of memory ({_first_line(error)}); {_memory_advice(arguments)}")
        sys.exit(1)
    finally:
        # All is done and printed: Ctrl-C while Python ends would show a traceback and change nothing.
        _interrupts_are(signal.default_int_handler, signal.SIG_IGN)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupts_are(before: Any, after: Any) -> None:
    """Change what Ctrl-C does from one of Python's ways to another, in the program only."""
    if IS_PROGRAM and signal.getsignal(signal.SIGINT) is before:
        signal.signal(signal.SIGINT, after)


def _trace(arguments: list[str]) -> None:
    """Print the traceback of the present error where ``--debug`` is given."""
    if "--debug" in arguments:
        write_message(traceback.format_exc().removesuffix("\n"))


def _wants_memory(error: Exception) -> bool:
    """Return whether memory ran out: torch raises a class of its own on a GPU, and a RuntimeError on a CPU."""
    if not isinstance(error, MemoryError | RuntimeError):
        return False
    if "torch" not in sys.modules:  # then it is not torch's
        return isinstance(error, MemoryError)
    from epanns.training.memory import is_out_of_memory

    return is_out_of_memory(error)


# Option -> what takes less memory.
_MEMORY_OPTIONS = {
    "--batch-size": "a smaller --batch-size",
    "--workers": "fewer --workers",
    "--jobs": "fewer --jobs",
    "--calibration": "a --calibration pack of fewer or shorter clips",
    "--window": "a shorter --window",
    "--seconds": "fewer --seconds",
}


def _memory_advice(arguments: list[str]) -> str:
    """Return what takes less memory: those options that the command has."""
    name = next((argument for argument in arguments if argument in COMMANDS), None)
    command = None if name is None else cli.get_command(click.Context(cli), name)
    options = {option for item in (command.params if command else ()) for option in item.opts}
    remedies = [remedy for option, remedy in _MEMORY_OPTIONS.items() if option in options]
    if not remedies:
        return "free memory, or use a machine with more"
    return "free memory, or use " + " or ".join([*([", ".join(remedies[:-1])] if remedies[1:] else []), remedies[-1]])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
