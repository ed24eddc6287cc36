"""The `epanns` command: a table of commands, each of which is imported when it is used."""

import importlib
import io
import os
import signal
import sys
import traceback
from typing import Any

import click

from epanns.cli import IS_PROGRAM
from epanns.cli.shared.terminal import prepare_streams, report_once, write_error, write_message
from epanns.errors import EpannsError, did_you_mean

# Name -> (module, line of help); the lines are here so that `epanns --help` imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "Train, prune, recover, fine-tune and report on generated sound, in minutes."),
    "doctor": ("doctor", "Check packages, threads, GPU and extras on this machine."),
    "models": ("models", "List the networks of the zoo and the released files."),
    "import": ("import_", "Convert a released PANNs, E-PANNs or YAMNet file to a checkpoint."),
    "info": ("info", "Show the contents and the origin of a checkpoint."),
    "profile": ("profile", "Count parameters, bytes and multiply-adds; measure latency."),
    "data": ("data", "Write a manifest of a data set in its published layout."),
    "pack": ("pack", "Decode, resample and pack the clips of a manifest."),
    "verify": ("verify", "Check every clip, file and checksum of a pack."),
    "train": ("train", "Train a network of the zoo from random weights."),
    "prune": ("prune", "Remove the least important filters of a checkpoint."),
    "sensitivity": ("sensitivity", "Measure the loss of mAP when each layer is pruned alone."),
    "finetune": ("finetune", "Continue the training of a checkpoint, also with new classes."),
    "evaluate": ("evaluate", "Measure mAP, mAUC and d-prime on a pack."),
    "agree": ("agree", "Compare a pruned network with the unpruned one, without labels."),
    "search": ("search", "Search the front of cost and score over widths, criterion and recovery."),
    "compare": ("compare", "Compare networks on the same clips: difference, interval and p."),
    "export": ("export", "Write a checkpoint as ONNX, in float32 and int8."),
    "tag": ("tag", "Tag audio files of any length and sample rate."),
    "sweep": ("sweep", "Run a grid of pruning trials from a TOML file."),
    "report": ("report", "Make tables and figures of run records."),
}

# Option -> a way to need less memory.
_MEMORY_OPTIONS = {
    "--batch-size": "a smaller --batch-size",
    "--workers": "fewer --workers",
    "--jobs": "fewer --jobs",
    "--calibration": "a --calibration pack of fewer or shorter clips",
    "--window": "a shorter --window",
    "--seconds": "fewer --seconds",
}


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a project, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None if the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"epanns.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest name if a command is unknown."""
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
    """Run the command line; only here an error becomes a line on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _switch_interrupts(signal.SIG_DFL, signal.default_int_handler)
        prepare_streams()
        code = cli.main(args=arguments, standalone_mode=False)
    except EpannsError as error:
        _print_traceback(arguments)
        report_once(error)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing permission, a path through a file
        _print_traceback(arguments)
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
    except (MemoryError, RuntimeError) as error:  # torch raises a RuntimeError on a CPU
        memory = "epanns.state_files"
        if isinstance(error, RuntimeError) and not (
            "torch" in sys.modules and importlib.import_module(memory).is_out_of_memory(error)
        ):
            raise  # a mistake in epanns: show its traceback
        _print_traceback(arguments)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        write_error(f"out of memory ({reason}); {_memory_advice(arguments)}")
        sys.exit(1)
    finally:
        # The work is done and printed: Ctrl-C while Python ends would only show a traceback.
        _switch_interrupts(signal.default_int_handler, signal.SIG_IGN)
    sys.exit(code if isinstance(code, int) else 0)


def _switch_interrupts(before: Any, after: Any) -> None:
    """Replace the handler of Ctrl-C `before` by `after`, if this process is the program."""
    if IS_PROGRAM and signal.getsignal(signal.SIGINT) is before:
        signal.signal(signal.SIGINT, after)


def _print_traceback(arguments: list[str]) -> None:
    """Print the traceback of the current error if ``--debug`` is given."""
    if "--debug" in arguments:
        write_message(traceback.format_exc().removesuffix("\n"))


def _memory_advice(arguments: list[str]) -> str:
    """Return advice with the options of the command that reduce its memory."""
    name = next((argument for argument in arguments if argument in COMMANDS), None)
    command = None if name is None else cli.get_command(click.Context(cli), name)
    options = {option for item in (command.params if command else ()) for option in item.opts}
    remedies = [remedy for option, remedy in _MEMORY_OPTIONS.items() if option in options]
    if not remedies:
        return "free memory, or use a machine with more"
    return "free memory, or use " + " or ".join([*([", ".join(remedies[:-1])] if remedies[1:] else []), remedies[-1]])
