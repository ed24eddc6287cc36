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
# Modules of the package's top level that are not named here are in layer 1.
LAYERS = [
    {"errors"},
    {*(path.stem for path in PACKAGE.glob("[a-z]*.py"))} - {"errors", "labels"},
    {"audio", "labels"},
    {"models"},
    {"complexity", "data", "statistics"},
    {"pruning"},
    {"training", "evaluation"},
    {"stages"},
    {"sweeps"},
    {"reporting", "export"},
    {"cli"},
]
SIBLINGS = [{"complexity", "data", "statistics"}, {"training", "evaluation"}, {"reporting", "export"}]
# Third-party package -> the only places that may import it.
DOORS = {
    "torch_pruning": {"pruning/surgery.py"},
    "torchaudio": {"audio/frontend.py"},
    "h5py": {"data/", "models/files/yamnet_file.py"},  # Google's weights of YAMNet are HDF5 too
    "soundfile": {"audio/", "data/datasets/synthetic.py"},
    "soxr": {"audio/"},
    "av": {"audio/decoders.py"},
    "safetensors": {"models/"},
    "scipy": {"evaluation/agreement.py", "statistics/"},
    "sklearn": {"evaluation/metrics.py"},
    "matplotlib": {"reporting/"},
    "pandas": {"reporting/frame.py"},
    "onnx": {"export/"},
    "onnxruntime": {"export/"},
    "onnxscript": {"export/"},
    "tensorboard": {"training/metrics.py"},
    "ray": {"ray_cluster.py"},
    "wandb": {"sweeps/tracking.py"},
    "mlflow": {"sweeps/tracking.py"},
    "optuna": {"stages/search_space.py"},
}
LAZY_TOP_LEVEL = {"__init__.py", "__main__.py"}

# Words that a sentence about code does not need: code reads, writes, checks and returns.
VAGUE_WORDS = re.compile(
    r"\b(told|tells?|telling|heard|hears?|hearing|says?|said|saying|nobody|somebody|asked|asks|asking|listens?|listened"
    r"|knows?|knew|lies|lie|anew|whatever|whoever|manieth|goes on|go on|went on|stands|stood|given back|what goes"
    r"|what went|forgets?|forgotten|speaks?|names it)\b",
    re.IGNORECASE,
)
MOST_VAGUE_WORDS = 1.0  # of 1,000 words


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


def circles(imports: dict[str, set[str]]) -> list[str]:
    """Return the modules that can be reached from themselves."""

    def reachable(module: str) -> set[str]:
        found: set[str] = set()
        new = set(imports[module])
        while new:
            found |= new
            new = {target for name in new for target in imports[name]} - found
        return found

    return [module for module in imports if module in reachable(module)]


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
        assert layer_of(parts[1]) <= layer_of(own), f"{own} must not import {name}: it is in a higher layer"
        for siblings in SIBLINGS:
            assert not ({own, parts[1]} <= siblings and own != parts[1]), f"{own} and {parts[1]} are siblings"


def test_imports_have_no_circle():
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    imports: dict[str, set[str]] = {}
    for name, path in names.items():
        targets = (full if full in names else full.rpartition(".")[0] for full in imports_of(path))
        imports[name] = {target for target in targets if target in names and target != name}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert circles(imports) == []


def test_docstrings_help_texts_and_messages_are_plain_english():
    hits, n_words = [], 0
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") >= 3:
                n_words += len(node.value.split())
                place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                hits += [f"{place} {hit[0]!r}" for hit in VAGUE_WORDS.finditer(node.value)]
    assert 1000 * len(hits) / n_words < MOST_VAGUE_WORDS, "\n".join(hits)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_parties_come_in_by_their_door(path):
    relative = str(path.relative_to(PACKAGE))
    for name in imports_of(path):
        allowed = DOORS.get(name.split(".")[0])
        assert allowed is None or any(relative.startswith(place) for place in allowed), f"{relative} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unsafe_is_called(path):
    source = path.read_text()
    if path == PACKAGE / "data" / "packing" / "decoding_pool.py":  # reads what its own worker processes have pickled
        source = source.replace("import pickle\n", "")
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
def test_public_definitions_have_docstrings(path):
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
    paths = sorted((PACKAGE / "reporting").rglob("[a-z]*.py"))
    modules = ", ".join(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths)
    assert "epanns.reporting.figures.sensitivity" in modules
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
