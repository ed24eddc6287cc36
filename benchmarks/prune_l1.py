"""L1 pruning of C7-C12 of Cnn14 at 50 %: `epanns.prune` compared with the pruner of Torch-Pruning.

Each measurement runs in a separate process, the two sides alternately. Time is that of the call alone, without imports
and without building the network; memory is the peak resident size of the process (VmHWM), including the network.
Torch-Pruning prunes the network in place; `epanns.prune` returns a new network. Both must give the same tensors.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import record
import torch
import torch_pruning as tp
from torch import nn

import epanns
from epanns.models.tagger import Tagger
from epanns.pruning.prune import prune
from epanns.pruning.surgery import zero_inputs

BLOCKS = ("conv_block4", "conv_block5", "conv_block6")
REPEATS = 9


def ours(model: Tagger) -> nn.Module:
    return prune(model, criterion="l1", ratio=0.5, layers=BLOCKS)[0]


def peer(model: Tagger) -> nn.Module:
    """Prune with Torch-Pruning, with the settings that rank by the plain L1 norm of each filter."""
    layers = {model.get_submodule(f"{block}.conv{index}"): 0.5 for block in BLOCKS for index in (1, 2)}
    pruner = tp.pruner.BasePruner(
        model,
        zero_inputs(model),
        importance=tp.importance.GroupMagnitudeImportance(
            p=1, group_reduction="first", normalizer=None, target_types=[nn.modules.conv._ConvNd, nn.Linear]
        ),
        pruning_ratio=0.0,
        pruning_ratio_dict=layers,
        ignored_layers=[model.fc_audioset],
        forward_fn=lambda network, inputs: network.forward_inputs(inputs)["clipwise_logits"],
    )
    pruner.step()
    return model


def child(which: str) -> dict[str, Any]:
    """Build and prune the network; return the time, the peak memory and a digest of the tensors."""
    torch.manual_seed(0)
    model = epanns.build_model("Cnn14").eval()
    started, cpu_started = time.perf_counter(), time.process_time()
    pruned = {"ours": ours, "peer": peer}[which](model)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    peak = peak_bytes()
    digest = hashlib.sha256()
    for name, tensor in sorted(pruned.state_dict().items()):
        digest.update(name.encode() + str(tuple(tensor.shape)).encode() + tensor.numpy().tobytes())
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak": peak, "sha256": digest.hexdigest()}


def peak_bytes() -> int:
    """Return the peak resident size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def run(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder in a new process and return the JSON object on its last line."""
    command = [sys.executable, str(Path(__file__).parent / script), "--child", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def main() -> None:
    measured: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(REPEATS):
        for which, results in measured.items():
            results.append(run("prune_l1.py", which))
    digests = {result["sha256"] for results in measured.values() for result in results}
    assert len(digests) == 1, "the two sides give different tensors"  # noqa: S101
    seconds = {which: [result["seconds"] for result in results] for which, results in measured.items()}
    peaks = {which: max(result["peak"] for result in results) for which, results in measured.items()}
    ratio = spread([peer / ours for ours, peer in zip(seconds["ours"], seconds["peer"], strict=True)])
    memory = peaks["ours"] / peaks["peer"]
    record.save(
        "prune_l1",
        what="L1 on C7-C12 of Cnn14 at 50 %, wall time and peak memory; the same filters, bit for bit",
        against=f"Torch-Pruning {tp_version()}'s own pruner, in place",
        target=">= 1 x as fast, <= 1 x the memory",
        met=ratio["median"] >= 1 and memory <= 1,
        result={
            "headline": f"{record.ratio_text(ratio)} as fast ({statistics.median(seconds['ours']):.2f} s), "
            f"{memory:.2f} x the memory ({peaks['ours'] / 1e6:.0f} MB)",
            "seconds": {which: [round(value, 3) for value in values] for which, values in seconds.items()},
            "ratio": ratio,
            "cpu_seconds": {
                which: [round(result["cpu_seconds"], 3) for result in results] for which, results in measured.items()
            },
            "peak_bytes": peaks,
            "sha256": digests.pop(),
            "threads": torch.get_num_threads(),
        },
    )


def tp_version() -> str:
    from importlib.metadata import version

    return version("torch-pruning")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", choices=["ours", "peer"])
    which = parser.parse_args().child
    if which:
        sys.stdout.write(json.dumps(child(which)) + "\n")
    else:
        main()
