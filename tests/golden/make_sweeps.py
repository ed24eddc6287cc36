"""Write sweeps.json: what quickstart and a small sweep gave when the file was made, for tests/sweeps/test_golden.py.

Run it with the version of epanns whose results are to stay: ``OMP_NUM_THREADS=1 python make_sweeps.py``.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).with_name("sweeps.json")
# Each criterion needs something else: weights, clips, labels. Each recovery and each way to state an amount appears.
SMALL = """
name = "small"
seeds = [0, 1]
[data]
kind = "synthetic"
sample_rate = 8000
seconds = 0.5
train = ["train"]
val = ["val"]
test = ["test"]
[data.synthetic]
clips = 150
classes = 4
[[base]]
name = "narrow"
model = "Cnn14_8k"
width = 0.03
training = { iterations = 6, batch_size = 8, validate_every = 3 }
[[grid]]
ratio = [0.0, 0.5]
criterion = ["l1", "fpgm"]
layers = [["conv_block5", "conv_block6"]]
recover = ["bn"]
calibration_clips = 24
[[grid]]
budget = ["macs 0.5"]
ratios = [{ conv_block5 = 0.25, "conv_block6.conv1" = 0.5 }]
criterion = ["activation", "taylor"]
recover = ["none", "ls+bn", "distil:2"]
calibration_clips = 24
recovery = { ridge = 0.01 }
seeds = [0]
[[finetune]]
iterations = 2
batch_size = 8
validate_every = 1
teacher = "dense"
distil_weight = 0.5
"""


def run(*arguments: object) -> None:
    """Run a command of epanns in a process of its own, with one thread."""
    command = [sys.executable, "-m", "epanns", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def quickstart(folder: Path) -> dict[str, Any]:
    """Return the results of ``epanns quickstart``, run in a folder."""
    run("quickstart", "--out", folder / "quickstart")
    return results_in(folder / "quickstart")


def small(folder: Path) -> dict[str, Any]:
    """Return the results of the small sweep, run in a folder."""
    (folder / "small.toml").write_text(SMALL, encoding="utf-8")
    run("sweep", folder / "small.toml", "--out", folder / "small")
    return results_in(folder / "small")


def results_in(sweep: Path) -> dict[str, Any]:
    """Return for each trial of a sweep what must stay: the plan, the costs, and the scores of each stage."""
    found = {}
    for path in sorted(sweep.glob("trials/*/result.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        scores = {
            f"{stage['name']} {split} mAP": round(summary["mAP"], 6)
            for stage in record["stages"]
            for split, summary in stage["scores"].items()
        }
        cost = {name: record["cost_after"][name] for name in ("n_params", "backbone_macs")}
        found[record["trial_id"]] = {"plan_digest": record["plan_digest"], "cost": cost, "scores": scores}
    return found


def this_machine() -> dict[str, str]:
    """Return what decides the last digits of scores, and by them the ranking of trained filters."""
    vendor = re.search(r"vendor_id\s*: (\w+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    instructions = torch.backends.cpu.get_cpu_capability()  # float32 sums are rounded in another order with AVX-512
    return {
        "vendor": vendor[1] if vendor else "",
        "machine": platform.machine(),
        "instructions": instructions,
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


def main() -> None:
    """Run both sweeps and write the golden values."""
    with tempfile.TemporaryDirectory() as folder:
        golden = {"made_on": this_machine(), "small": small(Path(folder)), "quickstart": quickstart(Path(folder))}
    others = [made for made in json.loads(GOLDEN.read_text(encoding="utf-8")) if made["made_on"] != golden["made_on"]]
    GOLDEN.write_text(json.dumps([*others, golden], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
