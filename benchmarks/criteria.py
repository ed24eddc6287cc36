"""Time and memory of each criterion that needs no data, on C7-C12 of Cnn14, each in a separate process.

Only the ranking that `epanns.prune` computes is measured: the network is built before, and nothing is removed. Memory
is the peak resident size of the process (VmHWM), including the network.
"""

import argparse
import json
import sys
import time
from typing import Any

import prune_l1
import record
import torch

import epanns
from epanns.pruning.ranking.criteria import CRITERIA, needs_clips
from epanns.pruning.ranking.importance import channel_importance

SECONDS, BYTES = 30, 3e9


def child(criterion: str) -> dict[str, Any]:
    """Rank the filters; return the seconds and the peak memory in bytes."""
    torch.manual_seed(0)
    model = epanns.build_model("Cnn14").eval()
    layers = [layer for layer in model.layer_names if layer.startswith(prune_l1.BLOCKS)]
    started = time.perf_counter()
    scores = channel_importance(model, layers, criterion=criterion)
    seconds = time.perf_counter() - started
    assert [len(scores[layer]) for layer in layers] == [512, 512, 1024, 1024, 2048, 2048]
    return {"seconds": round(seconds, 2), "peak_bytes": prune_l1.peak_bytes()}


def main() -> None:
    """Measure each criterion and save the record."""
    measured = {name: prune_l1.run("criteria.py", name) for name in CRITERIA if not needs_clips(name)}
    slowest = max(measured, key=lambda name: float(measured[name]["seconds"]))
    largest = max(measured, key=lambda name: int(measured[name]["peak_bytes"]))
    seconds, peak = measured[slowest]["seconds"], measured[largest]["peak_bytes"]
    record.save(
        "criteria",
        what=f"ranking C7-C12 of Cnn14 by each of the {len(measured)} criteria that need no data",
        against="-",
        target=f"each under {SECONDS} s and {BYTES / 1e9:g} GB",
        met=seconds < SECONDS and peak < BYTES,
        result={
            "headline": f"at most {seconds:.1f} s ({slowest}) and {peak / 1e9:.2f} GB ({largest})",
            "criteria": measured,
            "threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", choices=CRITERIA)
    name = parser.parse_args().child
    if name:
        sys.stdout.write(json.dumps(child(name)) + "\n")
    else:
        main()
