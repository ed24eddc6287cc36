"""Time and memory of ``epanns report`` on thousands of records, from the start of the process to the last file.

    python benchmarks/report_records.py [--records 5000]

Records are made of one published record: criteria, ratios, recoveries, learning rates, batch sizes and five seeds,
with scores that vary, a learning curve and all settings of a sweep. The report has a row per configuration. It is
judged by processor time, which other load on the machine affects less; the record has the load.
"""

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import record

SOURCE = Path(__file__).parents[1] / "results" / "finetuning" / "esc50" / "records" / "2906642bff70.json"
CRITERIA = ("l1", "l2", "fpgm", "opnorm", "cosine", "taylor", "random", "bn")
RATIOS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8)
RECOVERIES = ("none", "bn", "ls", "ls+bn")
RATES, BATCHES, SEEDS = (1e-4, 2e-4, 1e-3), (16, 32), range(5)
MOST_SECONDS = 30


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5000)
    count = parser.parse_args().records
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "records"), Path(name, "report")
        folder.mkdir()
        for values in itertools.islice(make_records(), count):
            (folder / f"{values['trial_id']}.json").write_text(json.dumps(values, indent=2))
        command = [sys.executable, "-m", "epanns", "report", str(folder), "--out", str(out)]
        load, before = os.getloadavg()[0], record.children_seconds()
        peak, seconds = record.peak_of_command(command)
        cpu_seconds = record.children_seconds() - before
        page = (out / "report.html").stat().st_size
        n_rows = len((out / "table.csv").read_text().splitlines()) - 1
    record.save(
        "report_records",
        what=f"`epanns report` of {count:,} records, {n_rows:,} rows: tables, figures in three formats, page",
        against="-",
        target=f"under {MOST_SECONDS} s of processor time for 5,000 records",
        met=count >= 5000 and cpu_seconds < MOST_SECONDS,
        result={
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "load": round(load, 1),
            "peak_mb": round(peak / 1e6),
            "page_mb": round(page / 1e6, 2),
            "headline": f"{cpu_seconds:.0f} s of processor time ({seconds:.0f} s at a load of {load:.0f} before it), "
            f"{peak / 1e6:.0f} MB; "
            f"the page has {page / 1e6:.1f} MB",
        },
    )


def make_records() -> Iterator[dict[str, Any]]:
    """Yield the values of each record."""
    source, draw = json.loads(SOURCE.read_text()), random.Random(0)
    grid = itertools.product(CRITERIA, RATIOS, RECOVERIES, RATES, BATCHES, SEEDS)
    for number, (criterion, ratio, recover, rate, batch_size, seed) in enumerate(grid):
        values = deepcopy(source)
        settings = {"criterion": criterion, "ratio": ratio, "recover": recover, "seed": seed}
        values |= {"trial_id": f"{number:012x}", **settings}
        values["config"] |= settings
        values["config"]["finetune"] |= {"learning_rate": rate, "batch_size": batch_size, "seed": seed}
        values["config"]["base"]["seed"] = seed
        for name in ("n_params", "param_bytes", "backbone_macs"):
            values["cost_after"][name] = round(values["cost_before"][name] * (1 - 0.9 * ratio))
        for stage in values["stages"]:
            for summary in stage["scores"].values():
                summary["mAP"] = min(max(summary["mAP"] - 0.1 * ratio + draw.gauss(0, 0.01), 0.0), 1.0)
        yield values


if __name__ == "__main__":
    main()
