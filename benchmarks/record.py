"""What all benchmarks share: two things measured in turn, and a record of the result with the machine described.

A benchmark compares epanns with a peer in the same run. Absolute speeds change from machine to machine and from hour to
hour; the ratio of two rates that were measured in turn is what a record claims.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
PACKAGES = ("epanns-pruning", "torch", "numpy", "h5py", "soundfile", "soxr")


def rates_in_turn(ours: Callable[[], int], peer: Callable[[], int], repeats: int) -> dict[str, Any]:
    """Measure two functions alternately; each returns how many items it did.

    Returns:
        Rates in items per second, one for each repeat, and the median, least and greatest of the ratios ours / peer.
    """
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeats):
        for name, function in (("ours", ours), ("peer", peer)):
            started = time.perf_counter()
            items = function()
            rates[name].append(items / (time.perf_counter() - started))
    ratios = [one / other for one, other in zip(rates["ours"], rates["peer"], strict=True)]
    return {
        "ours_per_second": [round(rate, 1) for rate in rates["ours"]],
        "peer_per_second": [round(rate, 1) for rate in rates["peer"]],
        "ratio": {
            "median": round(statistics.median(ratios), 3),
            "min": round(min(ratios), 3),
            "max": round(max(ratios), 3),
        },
    }


class Side:
    """One side of a comparison in a process of its own, idle until it is called: neither has the other's memory."""

    def __init__(self, *arguments: str, threads: int) -> None:
        """Start this script again with other arguments; it must `serve`."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, sys.argv[0], *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self) -> int:
        """Let it work once and return how many items it did."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"{' '.join(map(str, self._process.args))}: exit code {self._process.wait()}")
        return int(answer)

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


def serve(work: Callable[[], int]) -> None:
    """Work each time the process at the other end asks, and tell it how many items that were."""
    for _ in sys.stdin:
        print(work(), flush=True)


def ratio_text(ratio: dict[str, float]) -> str:
    """Return a ratio of `rates_in_turn` in words: ``3.7 x (3.3 to 4.1)``."""
    return f"{ratio['median']:.2g} x ({ratio['min']:.2g} to {ratio['max']:.2g})"


def peak_of_command(command: list[str], *, every: float = 0.02) -> tuple[int, float]:
    """Run a command; return the greatest memory of it and its children together, in bytes, and its seconds.

    Memory is the sum of the proportional set sizes (Linux, ``smaps_rollup``): pages shared by several processes count
    once.
    """
    started = time.perf_counter()
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_pss, _tree(process.pid))))
            time.sleep(every)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return peak, time.perf_counter() - started


def _tree(root: int) -> list[int]:
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        for path in Path("/proc", str(process), "task").glob("*/children"):
            try:
                waiting += map(int, path.read_text().split())
            except OSError:
                continue  # it ended meanwhile
    return found


def _pss(process: int) -> int:
    try:
        text = Path("/proc", str(process), "smaps_rollup").read_text()
    except OSError:
        return 0  # it ended meanwhile
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def save(name: str, *, what: str, against: str, target: str, met: bool, result: dict[str, Any]) -> None:
    """Write ``results/benchmarks/NAME.json`` and show it.

    Args:
        name: Of the benchmark; one row of the README's table.
        what: What is measured, in words, with its sizes.
        against: The peer, or ``"-"``.
        target: What was asked of it before it was measured.
        met: Whether the result reaches the target.
        result: Whatever was measured; the table quotes ``result["headline"]``.
    """
    record = {
        "benchmark": name,
        "what": what,
        "against": against,
        "target": target,
        "met": met,
        "result": result,
        "machine": machine(),
        "commit": commit(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def commit() -> str:
    """Return the commit that was measured, with ``+`` where files were changed since."""
    run = partial(subprocess.run, cwd=RESULTS.parents[1], capture_output=True, text=True, check=True)
    changed = run(["git", "status", "--porcelain", "--", "epanns", "benchmarks"]).stdout
    return run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip() + ("+" if changed else "")


def machine() -> dict[str, Any]:
    """Describe what the benchmark ran on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
