"""The shell around the commands: exit codes, one line per error, configuration files, environment."""

import json
import subprocess
import sys

import click
import pytest
import torch

from epanns.cli import main as main_module
from epanns.cli.main import main
from epanns.cli.shared.options import EpannsCommand, json_option
from epanns.cli.shared.terminal import emit
from epanns.errors import DataProblems, EpannsError, Interrupted, did_you_mean


@click.command("echo", cls=EpannsCommand)
@click.option("--pruning-ratio", type=float, default=0.1)
@click.option("--name", "names", multiple=True)
@json_option
def echo(pruning_ratio: float, names: tuple[str, ...], as_json: bool) -> None:
    """Print the options."""
    emit({"ratio": pruning_ratio, "names": names}, f"ratio {pruning_ratio}", as_json)


@click.command("fail", cls=EpannsCommand)
@click.argument("how")
def fail(how: str) -> None:
    """Fail in a chosen way."""
    raise {
        "plain": EpannsError("a=1: must be 2"),
        "data": DataProblems("3 clips are damaged"),
        "signal": Interrupted(15, "stopped at step 3"),
        "disk": OSError(28, "No space left on device", "runs/base/state.pt"),
        "ctrl-c": KeyboardInterrupt(),
        "escape": EpannsError("clip 'a\n\x1b[2J\u202eb\udce9': must be\x9b sound"),
        "path": OSError(13, "Permission denied", b"a\n\xe9"),
        "memory": MemoryError("Unable to allocate 7 TiB\nfor an array"),
        "torch": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        "pipe": BrokenPipeError(32, "Broken pipe"),
        "end": EOFError(),
        "mistake": KeyError("x"),
    }[how]


@pytest.fixture
def epanns(monkeypatch, capsys):
    """Run the command line with the two commands above in its table."""
    monkeypatch.setattr(
        main_module.LazyGroup, "get_command", lambda self, ctx, name: {"echo": echo, "fail": fail}.get(name)
    )
    monkeypatch.setattr(main_module, "COMMANDS", {"echo": ("echo", "Say."), "fail": ("fail", "Fail.")})

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("plain", 1, "epanns: a=1: must be 2\n"),
        ("data", 3, "epanns: 3 clips are damaged\n"),
        ("signal", 143, "epanns: stopped at step 3\n"),
        (
            "disk",
            1,
            "epanns: runs/base/state.pt: No space left on device; check the path, its permissions and the disk\n",
        ),
        ("ctrl-c", 130, "\nepanns: stopped\n"),  # click ends the line that ^C is on
        ("escape", 1, r"epanns: clip 'a\n\x1b[2J\u202eb\udce9': must be\x9b sound"),
        ("path", 1, r"epanns: a\n\udce9: Permission denied; check the path, its permissions and the disk"),
        ("memory", 1, "epanns: out of memory (Unable to allocate 7 TiB); free memory, or use a machine with more"),
        ("torch", 1, "epanns: out of memory ([enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memo"),
        ("pipe", 1, "epanns: a process that worked for this one has ended (BrokenPipeError): run the command again, "),
        (
            "end",
            1,
            "epanns: a process that worked for this one has ended (EOFError): run the command again, with fewer",
        ),
    ],
)
def test_errors_are_one_line_of_visible_characters_and_an_exit_code(epanns, how, code, line):
    found, out, err = epanns("fail", how)
    assert (found, out, err[: len(line)]) == (code, "", line)
    assert err.endswith("\n") and err.strip("\n").isprintable()


def test_a_mistake_in_the_program_keeps_its_traceback(epanns):
    with pytest.raises(KeyError):
        main(["fail", "mistake"])


def test_debug_shows_the_traceback(epanns):
    code, out, err = epanns("fail", "plain", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("epanns: a=1: must be 2\n")


@pytest.mark.parametrize("arguments", [["echo", "--pruning-ratio", "x"], ["echo", "--nothing"], ["ecko"]])
def test_wrong_usage_is_code_2(epanns, arguments):
    assert epanns(*arguments)[0] == 2


def test_unknown_command_offers_the_nearest(epanns):
    assert "no such command 'ecko' (did you mean 'echo'?); see epanns --help" in epanns("ecko")[2]


def test_json_is_exactly_one_object(epanns):
    code, out, err = epanns("echo", "--json")
    assert (code, json.loads(out), err) == (0, {"ratio": 0.1, "names": []}, "")


def test_option_overrides_environment_overrides_file_overrides_default(epanns, monkeypatch, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('pruning-ratio = 0.2\nname = ["a", "b"]\n')
    assert json.loads(epanns("echo", "--json", "--config", str(config))[1]) == {"ratio": 0.2, "names": ["a", "b"]}
    monkeypatch.setenv("EPANNS_ECHO_PRUNING_RATIO", "0.3")
    assert json.loads(epanns("echo", "--json", "--config", str(config))[1])["ratio"] == 0.3
    arguments = ("echo", "--json", "--config", str(config), "--pruning-ratio", "0.4")
    assert json.loads(epanns(*arguments)[1])["ratio"] == 0.4


def test_unknown_keys_of_a_configuration_file_are_named(epanns, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("pruning_ration = 0.2\n")
    code, _, err = epanns("echo", "--config", str(config))
    assert code == 1
    assert "run.toml: unknown option 'pruning_ration' (did you mean 'pruning_ratio'?)" in err
    config.write_text("pruning_ratio = ")
    assert "run.toml: cannot be read as TOML" in epanns("echo", "--config", str(config))[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pruning_ratio = true", "pruning_ratio=True: must be a number"),
        ('pruning_ratio = "0.5"', "pruning_ratio='0.5': must be a number"),
        ('name = "a"', "name='a': must be a list"),
        ("json = 1", "json=1: must be true or false"),
    ],
)
def test_values_of_a_configuration_file_have_their_types(epanns, tmp_path, line, message):
    config = tmp_path / "run.toml"
    config.write_text(line)
    code, _, err = epanns("echo", "--config", str(config))
    assert (code, message in err) == (1, True)


def test_options_have_the_names_that_are_typed(epanns, monkeypatch, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("json = true\n")
    assert json.loads(epanns("echo", "--config", str(config))[1])["ratio"] == 0.1
    monkeypatch.setenv("EPANNS_ECHO_NAME", "a b")
    monkeypatch.setenv("EPANNS_ECHO_JSON", "1")
    assert json.loads(epanns("echo")[1])["names"] == ["a", "b"]


def test_did_you_mean_is_silent_where_nothing_is_near():
    assert did_you_mean("xyz", ["alpha", "beta"]) == ""


def test_module_runs_as_a_program():
    answer = subprocess.run([sys.executable, "-m", "epanns", "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("epanns, version 0.")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a memory object"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (["prune", "CKPT", "--ratio", "0.5", "--out", "OUT"], "a --calibration pack of fewer or shorter clips\n"),
        (["sensitivity", "CKPT", "--data", "CKPT", "--out", "OUT"], "a --calibration pack of fewer or shorter clips\n"),
        (["evaluate", "CKPT", "--data", "CKPT"], "a smaller --batch-size, fewer --workers or a shorter --window\n"),
        (["profile", "CKPT"], "fewer --seconds\n"),
    ],
    ids=lambda value: value[0],
)
def test_want_of_memory_is_one_line_that_names_options_of_the_command(
    monkeypatch, capsys, tmp_path, command, advice, error
):
    def load(*_, **__):
        raise error

    monkeypatch.setattr("epanns.models.files.load.load", load)
    (tmp_path / "ckpt").mkdir()
    places = {"CKPT": str(tmp_path / "ckpt"), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as stop:
        main([places.get(argument, argument) for argument in command])
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert said.startswith("epanns: out of memory (") and said.count("\n") == 1
    assert said.endswith(f"; free memory, or use {advice}")
