"""Time of a sweep beside the work of its trials: 500 trials that do nothing, in this process and in two others.

The trials are prepared, checked, locked, run by `run_trial` and recorded as always; only their work, which trains and
scores networks, is replaced by one that returns a record. The time includes the start of the two processes.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import record

from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic
from epanns.data.manifest import write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.records import RunRecord, read_record
from epanns.sweeps import trial
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.launchers import local, worker
from epanns.sweeps.runner import run_experiment

TRIALS, SECONDS = 500, 0.2
TEXT = """
name = "trivial"
seeds = {seeds}
[data]
kind = "packs"
train = ["{packs}/train"]
val = ["{packs}/val"]
test = ["{packs}/test"]
sample_rate = 8000
seconds = 0.5
[[base]]
model = "Cnn14_8k"
width = 0.03
training = {{ iterations = 1, batch_size = 4 }}
[grid]
ratio = {ratios}
layers = [["conv_block6"]]
"""


def without_work(sample: RunRecord, folder: Any, *_: Any) -> RunRecord:
    """Return a record of a trial that was not run; takes the place of `trial._run`."""
    return replace(sample, trial_id=folder.path.name)


def make_packs(folder: Path) -> Path:
    """Make packs of 50 short clips; return their folder."""
    settings = SyntheticSettings(clips=50, classes=4, seconds=0.5, sample_rate=8_000)
    write_manifest(make_synthetic(folder / "sound", settings), folder / "manifest.csv")
    for split in ("train", "val", "test"):
        pack = PackSettings(splits=(split,), sample_rate=8_000, seconds=0.5)
        pack_manifest(folder / "manifest.csv", folder / "packs" / split, pack)
    return folder / "packs"


def measure(folder: Path, n_trials: int) -> dict[str, float]:
    """Return the seconds per trial, by way of running."""
    packs = make_packs(folder)
    one = TEXT.format(packs=packs, seeds=[0], ratios=[0.5])
    run_experiment(parse_experiment(one, "one.toml"), folder / "one")
    sample = next(folder.glob("one/trials/*/result.json"))
    trial._run = partial(without_work, read_record(sample))
    local._COMMAND = (sys.executable, __file__, "--worker", str(sample))
    ratios = [round(0.1 + 0.8 * place / 49, 4) for place in range(49)]  # and one base for each seed
    experiment = parse_experiment(TEXT.format(packs=packs, seeds=[*range(n_trials // 50)], ratios=ratios), "many.toml")
    found = {}
    for name, jobs in (("one process", 1), ("two processes", 2), ("all done before", 2)):
        started = time.perf_counter()
        summary = run_experiment(experiment, folder / ("one process" if jobs == 1 else "two processes"), jobs=jobs)
        assert len(summary.done) + len(summary.skipped) == n_trials, summary
        found[name] = (time.perf_counter() - started) / n_trials
    return found


def main(n_trials: int) -> None:
    """Measure, and save the record if all trials were run."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), n_trials)
    text = ", ".join(f"{1000 * seconds:.0f} ms ({name})" for name, seconds in found.items())
    if n_trials < TRIALS:
        sys.stdout.write(f"{n_trials} trials: {text}; nothing is saved\n")
        return
    record.save(
        "sweep_trials",
        what=f"a sweep of {TRIALS} trials that do nothing, per trial: checks, files, locks, processes",
        against="-",
        target=f"under {SECONDS} s per trial",
        met=max(found.values()) < SECONDS,
        result={"headline": text, "seconds_per_trial": {name: round(value, 4) for name, value in found.items()}},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS, help="a multiple of 50")
    parser.add_argument("--worker", type=Path)
    parser.add_argument("gpus", nargs="?")
    arguments = parser.parse_args()
    if arguments.worker:
        trial._run = partial(without_work, read_record(arguments.worker))
        sys.exit(worker.main(0.0))
    main(arguments.trials)
