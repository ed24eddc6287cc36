"""Standard streams that are closed, full or of another encoding, and text from files that reaches them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from epanns.cli import main as main_module
from epanns.cli.main import main
from epanns.cli.shared.options import EXISTING, OUTPUT, PATH, EpannsCommand, json_option, out_option
from epanns.cli.shared.terminal import emit, log
from epanns.errors import ConfigError


def run_shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell in which `epanns` is this program."""
    code = f'epanns() {{ "{sys.executable}" -m epanns "$@"; }}; {line}'
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])} | environment
    return subprocess.run(["bash", "-c", code], capture_output=True, cwd=folder, env=variables, timeout=60, check=False)


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        (
            "epanns report --quoted >&-",
            1,
            "",
            "epanns: stdout is closed, the result was not printed: open it, or redirect",
        ),
        (
            "epanns report --quoted >/dev/full",
            1,
            "",
            "epanns: stdout: No space left on device, the result was not printed: ",
        ),
        ("epanns report --quoted --json | true; exit ${PIPESTATUS[0]}", 141, "", ""),
        ("epanns report --no-such-option 2>&-", 2, "", ""),
        ("epanns report --quoted <&- >&- 2>&-", 1, "", ""),
        # Nothing but the manifest is in the files: no descriptor of a stream became one of theirs.
        ("epanns data synthetic a --clips 12 --out m.csv <&- 2>&-", 0, "m.csv: 12 clips of 12, 10 classes; ", ""),
    ],
)
def test_closed_and_full_streams_end_in_a_line_and_a_code(tmp_path, line, code, out, err):
    ended = run_shell(line, tmp_path)
    assert (ended.returncode, ended.stdout.decode()[: len(out)]) == (code, out)
    assert ended.stderr.decode().startswith(err)
    assert len(ended.stderr.splitlines()) == bool(err)


@click.command("show", cls=EpannsCommand)
@click.option("--read", type=EXISTING)
@click.option("--place", type=PATH)
@out_option("Where.", required=False)
@json_option
def show(read: Path | None, place: Path | None, out: Path | None, as_json: bool) -> None:
    """Print text as files may hold it."""
    log("a\nb\x1b[31m")
    emit(
        {"out": str(out), "name": "\x1b]0;x\x07\x9b\u202e\udce9é"},
        f"{out}\nname \x1b]0;x\x07\x9b\u202e\udce9é",
        as_json,
    )


@pytest.fixture
def epanns(monkeypatch, capsys):
    """Run the command line with the command above as its only command."""
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda self, ctx, name: show)
    monkeypatch.setattr(main_module, "COMMANDS", {"show": ("", "")})

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_control_characters_of_a_result_are_visible(epanns):
    code, out, err = epanns("show")
    assert (code, err) == (0, "a\\nb\\x1b[31m\n")
    assert out == "None\nname \\x1b]0;x\\x07\\x9b\\u202e\\udce9é\n"
    out = epanns("show", "--json")[1]
    assert json.loads(out)["name"] == "\x1b]0;x\x07\x9b\u202e\udce9é"
    assert out[:-1].isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_results_are_printed_in_every_encoding(tmp_path, encoding):
    ended = run_shell("epanns report --quoted && epanns report --quoted --json", tmp_path, PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout.splitlines()[-1])["quoted"]


@pytest.mark.parametrize("option", ["--out", "--place", "--read"])
def test_an_empty_path_is_refused(epanns, option):
    line = f"epanns: {option} '': must be neither empty nor hold a NUL character; name a path\n"
    assert epanns("show", option, "") == (1, "", line)


def test_a_path_with_a_nul_character_is_refused(epanns, tmp_path):
    (tmp_path / "run.toml").write_text('out = "a\\u0000b"\n')
    code, out, err = epanns("show", "--config", str(tmp_path / "run.toml"))
    assert (code, out) == (1, "")
    assert err.startswith(f"epanns: {tmp_path / 'run.toml'}: out='a\\x00b': must be a path ")
    with pytest.raises(ConfigError, match="must be neither empty nor hold a NUL character; name a path"):
        OUTPUT.convert("a\0b", None, None)


@pytest.mark.parametrize(
    ("given", "used"), [(".", "sub"), ("./", "sub"), ("..", ""), ("x/..", "sub"), ("../y", "../y")]
)
def test_output_paths_have_a_name(epanns, monkeypatch, tmp_path, given, used):
    (tmp_path / "sub" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "sub")
    shown = epanns("show", "--out", given)[1].splitlines()[0]
    assert shown == (used if used.startswith("..") else str((tmp_path / used).resolve()))


def test_output_paths_without_a_name_or_utf8_are_refused(epanns, monkeypatch, tmp_path):
    assert epanns("show", "--out", "/")[2] == "epanns: --out '/': must have a name; give a path in a folder\n"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path in (tmp_path / "circle", tmp_path / "circle" / "run", f"{tmp_path}/circle/.."):
        message = f"epanns: --out '{path}': leads in a circle of links; choose another path\n"
        assert epanns("show", "--out", str(path))[2] == message
    message = r"epanns: --out '/caf\udce9/x': its full path must be UTF-8; choose another path" + "\n"
    assert epanns("show", "--out", "/caf\udce9/x") == (1, "", message)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="its full path must be UTF-8"):
        OUTPUT.convert("x", None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "out = " + "[" * 100_000,
            "cannot be read as TOML (tables and lists are nested more than 64 deep): correct the file",
        ),
        ("out = " + "1" * 10_000, "cannot be read as TOML (a whole number does not fit in 64 bits): correct the file"),
        ('out = "' + "x" * (1 << 22) + '"', "4,194,312 bytes, must be at most 4,194,304: correct the file"),
    ],
)
def test_hostile_configuration_files_are_refused_in_one_line(epanns, tmp_path, text, message):
    config = tmp_path / "run.toml"
    config.write_text(text)
    assert epanns("show", "--config", str(config)) == (1, "", f"epanns: {config}: {message}\n")


def test_only_one_module_writes_to_the_streams():
    """What is printed past `terminal` would reach the terminal with its control characters."""
    package = Path(main_module.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.name != "terminal.py":
            assert not re.search(r"\becho\(|\bsecho\(|std(out|err)\.write", path.read_text()), path


@pytest.mark.parametrize("place", ["import", "command", "end"])
def test_ctrl_c_shows_no_traceback(tmp_path, place):
    """Ctrl-C comes while modules are imported, in a command, and when the result has been printed."""
    send = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    code = {
        "import": f"import epanns.cli; {send}",
        "command": f"""
import epanns.cli.main as main
def stop(*given, **options): {send}
main.cli.main = stop
main.main([])""",
        "end": f"""
import epanns.cli.main as main
try:
    main.main(["--version"])
finally:
    {send}""",
    }[place]
    (tmp_path / "epanns").write_text(code)
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(tmp_path / "epanns")]
    ended = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60, check=False)
    wanted = {"import": (-2, ""), "command": (130, "epanns: stopped\n"), "end": (0, "")}[place]
    assert (ended.returncode, ended.stderr) == wanted
