"""Functions that all benchmarks use: measure two sides alternately, and save a record with the result and the machine.

A benchmark compares epanns with a peer in the same run. Absolute rates differ between machines and over time; a record
therefore claims the ratio of two rates that were measured alternately.
"""

import json
import os
import platform
import resource
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
    """Measure two functions alternately; each returns the number of items it has processed.

    Returns:
        Rates in items per second, one per repeat, and the median, minimum and maximum of the ratios ours / peer.
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
    """One side of a comparison, in a separate process with its own memory, which is idle until it is called."""

    def __init__(self, *arguments: str, threads: int) -> None:
        """Start this script with other arguments, for which it must call `serve`."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, sys.argv[0], *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self) -> int:
        """Run the work once and return the number of items."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"{' '.join(map(str, self._process.args))}: exit code {self._process.wait()}")
        return int(answer)

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(work: Callable[[], int]) -> None:
    """Run the work for each request on standard input, and print the number of items."""
    for _ in sys.stdin:
        print(work(), flush=True)


def ratio_text(ratio: dict[str, float]) -> str:
    """Return a ratio of `rates_in_turn` in words: ``3.7 x (3.3 to 4.1)``."""
    return f"{ratio['median']:.2g} x ({ratio['min']:.2g} to {ratio['max']:.2g})"


def peak_of_command(command: list[str], *, every: float = 0.02) -> tuple[int, float]:
    """Run a command; return the peak memory of it and its children together, in bytes, and its seconds.

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


def children_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _tree(root: int) -> list[int]:
    found, queue = [], [root]
    while queue:
        process = queue.pop()
        found.append(process)
        for path in Path("/proc", str(process), "task").glob("*/children"):
            try:
                queue += map(int, path.read_text().split())
            except OSError:
                continue  # the process has ended
    return found


def _pss(process: int) -> int:
    try:
        text = Path("/proc", str(process), "smaps_rollup").read_text()
    except OSError:
        return 0  # the process has ended
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def save(name: str, *, what: str, against: str, target: str, met: bool, result: dict[str, Any]) -> None:
    """Write ``results/benchmarks/NAME.json`` and print it.

    Args:
        name: Name of the benchmark, which is one row of the table in ``docs/benchmarks.md``.
        what: The quantity measured, in words, with its sizes.
        against: The peer, or ``"-"``.
        target: Target set before the measurement.
        met: Whether the result reaches the target.
        result: All measurements; the table quotes ``result["headline"]``.
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
    """Return the commit that is measured, followed by ``+`` if files differ from it."""
    run = partial(subprocess.run, cwd=RESULTS.parents[1], capture_output=True, text=True, check=True)
    changed = run(["git", "status", "--porcelain", "--", "epanns", "benchmarks"]).stdout
    return run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip() + ("+" if changed else "")


def machine() -> dict[str, Any]:
    """Describe the machine and the versions."""
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
