"""The rules of CONTRIBUTING.md that a machine can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "epanns"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module may import its own layer and those below it; modules side by side in one row may not import each other.
LAYERS = [
    {"errors"},
    {
        *("atomic", "csv_table", "distributed", "draws", "heap", "installed", "json_file", "locks", "names", "notes"),
        *("optional", "printable", "progress", "seeding", "signals", "strict", "text_file", "toml_file", "unfinished"),
        "workfolder",
    },
    {"audio", "labels"},
    {"models"},
    {"complexity", "data"},
    {"pruning"},
    {"training", "evaluation", "transfer"},
    {"sweeps"},
    {"reporting", "export", "demo"},
    {"cli"},
]
SIBLINGS = [{"complexity", "data"}, {"training", "evaluation", "transfer"}, {"reporting", "export", "demo"}]
# Third-party package -> the only places that may import it.
DOORS = {
    "torch_pruning": {"pruning/engine.py"},
    "torchaudio": {"audio/mel_filterbank.py"},
    "h5py": {"data/", "models/yamnet_file.py"},  # Google's weights of YAMNet are HDF5 too
    "soundfile": {"audio/", "data/synthetic.py"},
    "soxr": {"audio/"},
    "av": {"audio/ffmpeg.py"},
    "safetensors": {"models/"},
    "sklearn": {"evaluation/metrics.py"},
    "matplotlib": {"reporting/"},
    "onnx": {"export/"},
    "onnxruntime": {"export/"},
    "onnxscript": {"export/"},
    "tensorboard": {"training/events.py"},
}
LAZY_TOP_LEVEL = {"__init__.py", "__main__.py"}


def imports_of(path: Path) -> list[str]:
    """Every dotted module a file imports, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def layer_of(name: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if name in names)


def place_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_holds_one_idea(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_downward(path):
    if path.parent == PACKAGE and path.name in LAZY_TOP_LEVEL:
        return
    own = place_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "epanns" or len(parts) < 2 or not any(parts[1] in names for names in LAYERS):
            continue
        assert layer_of(parts[1]) <= layer_of(own), f"{own} must not import {name}: it lies above"
        for siblings in SIBLINGS:
            assert not ({own, parts[1]} <= siblings and own != parts[1]), f"{own} and {parts[1]} are siblings"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_parties_come_in_by_their_door(path):
    relative = str(path.relative_to(PACKAGE))
    for name in imports_of(path):
        allowed = DOORS.get(name.split(".")[0])
        assert allowed is None or any(relative.startswith(place) for place in allowed), f"{relative} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unsafe_is_called(path):
    source = path.read_text()
    for pattern in (
        r"weights_only\s*=\s*False",
        r"^\s*(import pickle|from pickle import (?!UnpicklingError))",
        r"(?<![.\w])(eval|exec)\(",
        r"shell\s*=\s*True",
        r"yaml\.load",
        r"torch\.(jit|hub)\b",
        r"^\s*print\(",
    ):
        assert not re.search(pattern, source, re.MULTILINE), f"{path.name}: {pattern}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_definitions_say_what_they_are(path):
    tree = ast.parse(path.read_text())
    scopes = [tree, *[node for node in tree.body if isinstance(node, ast.ClassDef)]]
    for scope in scopes:
        for node in scope.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if any(ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list):
                    continue
                assert len(ast.get_docstring(node) or "") > 10, f"{path.name}: {node.name} has no docstring"


def test_tests_that_cannot_fail_do_not_exist():
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert re.search(r"\bassert\b|raises|pytest\.warns|assert_|refused\(", ast.unparse(node)), (
                    f"{path.name}: {node.name}"
                )


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_help_imports_no_torch():
    code = """
import sys
from epanns.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
assert not {"torch", "numpy", "h5py", "sklearn"} & set(sys.modules), sorted(sys.modules)
"""
    assert "quickstart" in run_python(code).stdout


def test_reporting_imports_neither_torch_nor_matplotlib():
    modules = ", ".join(f"epanns.reporting.{path.stem}" for path in sorted((PACKAGE / "reporting").glob("[a-z]*.py")))
    assert "epanns.reporting.sensitivity_figure" in modules
    found = run_python(
        f"import sys, {modules}; print(sorted({{'torch', 'h5py', 'sklearn', 'matplotlib'}} & set(sys.modules)))"
    )
    assert found.stdout == "[]\n"


def test_every_command_has_a_module_and_a_help_text():
    from click.testing import CliRunner

    from epanns.cli.main import COMMANDS, cli

    for name in COMMANDS:
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert "--config" in result.output


def test_package_data_is_listed():
    listed = (PACKAGE.parent / "setup.cfg").read_text()
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"} and "__pycache__" not in path.parts:
            relative = path.relative_to(PACKAGE)
            pattern = str(relative) if len(relative.parts) == 1 else f"{relative.parent}/*{relative.suffix}"
            assert pattern in listed, f"{relative} would not be installed: list {pattern} in setup.cfg"
