"""`epanns doctor`: check the packages, the machine and the extras."""

import importlib
import importlib.metadata
import os
import platform
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

import click

from epanns.cli.shared.options import EpannsCommand, json_option
from epanns.cli.shared.terminal import emit
from epanns.packages import CORE, EXTRAS, install_command, versions

_MAY_FAIL = {"torchaudio": "the mel filterbank is computed without it, with the same values"}


@dataclass(frozen=True)
class Package:
    """An installed or missing package.

    Attributes:
        version: None if it is not installed.
        problem: Why its import fails, on one line; None if it succeeds.
        lowest: The lowest release that epanns is tested with; None if any release is accepted.
    """

    name: str
    version: str | None
    problem: str | None
    lowest: str | None = None

    def state(self) -> str:
        """Return the state of the package as text."""
        if self.version is None:
            return "not installed"
        if self.problem:
            return "; ".join([f"cannot be imported ({self.problem})", *filter(None, [_MAY_FAIL.get(self.name)])])
        if self.lowest and _numbers(self.version) < _numbers(self.lowest):
            return f"ok, but older than {self.lowest}, the lowest release that is tested"
        return "ok"


@click.command("doctor", cls=EpannsCommand)
@json_option
def command(as_json: bool) -> None:
    """Check that epanns works on this machine: packages, threads, GPU, extras.

    Every package is imported, and a small network is built, pruned and run; the exit code is 1 if that fails. Extras
    are optional: the line of a missing extra gives its features and how to install it.
    """
    packages = core_packages()
    extras = {name: [check_package(*item) for item in extra.packages.items()] for name, extra in EXTRAS.items()}
    broken = [package.name for package in packages if package.problem and package.name not in _MAY_FAIL]
    system = _system()
    machine: dict[str, Any] = {}
    machine_lines = []
    if "torch" not in broken:
        import torch

        gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        machine = {"threads": torch.get_num_threads(), "gpus": [torch.cuda.get_device_name(index) for index in gpus]}
        threads = f"torch uses {machine['threads']}; this process may use {system['cores']} cores"
        machine_lines = [
            _line("threads", "", threads),
            _line("GPU", "", ", ".join(machine["gpus"]) or "none that torch can use"),
        ]
    trial = {} if broken else try_a_network()
    works = not broken and trial.get("problem") is None
    result = {
        **system,
        **machine,
        "core": [asdict(package) for package in packages],
        "extras": {name: [asdict(package) for package in found] for name, found in extras.items()},
        "trial": trial or None,
        "works": works,
    }
    lines = [
        *version_lines(packages),
        *machine_lines,
        *(_extra_line(name, found) for name, found in extras.items()),
        *([_line("trial", "", trial["problem"] or f"a small Cnn6: ok, {trial['seconds']:.1f} s")] if trial else []),
        "epanns works here."
        if works
        else f"epanns cannot work here: {', '.join(broken) or 'the trial failed'}; "
        "run pip install -e . in its source folder, in a new environment",
    ]
    emit(result, "\n".join(lines), as_json)
    if not works:
        click.get_current_context().exit(1)


def core_packages() -> list[Package]:
    """Import every package that epanns requires, and return their states."""
    return [check_package(name, module) for name, module in CORE.items()]


def check_package(name: str, module: str) -> Package:
    """Import a package and return its version, or why its import fails."""
    requirement = re.compile(rf"{re.escape(name)}\s*>=\s*([\d.]+)")
    required = map(requirement.match, importlib.metadata.requires("epanns-pruning") or [])
    version, lowest = versions(name).get(name), next((found[1] for found in required if found), None)
    try:
        importlib.import_module(module)
    except Exception as error:  # compiled libraries fail as OSError, ImportError, AttributeError or RuntimeError
        return Package(name, version, one_line(error), lowest)
    return Package(name, version, None, lowest)


def version_lines(packages: list[Package]) -> list[str]:
    """Return one line for this machine and one for each package."""
    system = _system()
    first = f"epanns {system['epanns']}, Python {system['python']}, {system['system']}"
    return [first, *(_line(package.name, package.version or "", package.state()) for package in packages)]


def try_a_network() -> dict[str, Any]:
    """Build a narrow Cnn6, remove half of its filters and tag one second of silence.

    Returns:
        ``seconds``, the time it took, and ``problem``, its error on one line or None.
    """
    started, problem = time.perf_counter(), None
    try:
        import torch

        import epanns

        pruned, _ = epanns.prune(epanns.build_model("Cnn6", width=0.0625).eval(), ratio=0.5)
        with torch.inference_mode():
            scores = pruned(torch.zeros(1, 32_000))["clipwise_output"]
        if not bool(scores.isfinite().all()):
            problem = "the scores of a small Cnn6 are not finite: torch computes wrong results here"
    except Exception as error:  # any error: the lines about the packages must still be printed
        problem = f"a small Cnn6: {one_line(error)}"
    return {"seconds": time.perf_counter() - started, "problem": problem}


def one_line(error: Exception) -> str:
    """Return the class and message of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _system() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {**versions(), "python": platform.python_version(), "system": platform.platform(), "cores": cores}


def _numbers(version: str) -> list[int]:
    """Return the numbers of a release, as 2, 13, 0 of ``2.13.0+cpu``."""
    return [int(number) for number in re.findall(r"\d+", version.split("+")[0])]


def _line(name: str, version: str, text: str) -> str:
    return f"  {name:<14} {version:<14} {text}"


def _extra_line(name: str, found: list[Package]) -> str:
    """Return the features of an extra, and how to install it if it is missing."""
    broken = [f"{package.name} {package.state()}" for package in found if package.problem and package.version]
    adds = f"adds {EXTRAS[name].adds}"
    if not any(package.problem for package in found):
        return _line(f"[{name}]", found[0].version or "", f"ok; {adds}")
    return _line(f"[{name}]", "", f"{'; '.join(broken) or 'not installed'}; {adds}: {install_command(name)}")
