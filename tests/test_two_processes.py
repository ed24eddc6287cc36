"""Two processes compute together what one computes: the laws of `two_processes.py`, all in one start."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import two_processes
from tests.processes import free_port, started

LAWS = [two_processes.name_of(law) for law in two_processes.laws(Path(), Path())]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def problems(tiny_packs, out) -> Mapping[tuple[int, str], str]:
    """What went wrong with each law on each rank; empty where it holds."""
    port = free_port()
    command = [two_processes.__file__, str(tiny_packs["train"].parent), str(out)]
    processes = [started(command, rank, port) for rank in range(2)]
    said = [process.communicate(timeout=300) for process in processes]
    lines = [json.loads(line) for stdout, _ in said for line in stdout.splitlines() if line.startswith("{")]
    found = {(line["rank"], line["law"]): line["problem"] for line in lines}
    return {"ended": "\n".join(stderr for _, stderr in said), **found}


@pytest.mark.parametrize("law", LAWS)
def test_each_law_holds_on_two_processes(problems, law):
    for rank in range(2):
        assert problems.get((rank, law), problems["ended"]) == ""


def test_a_process_reports_that_the_other_has_ended(problems):
    assert problems.get((0, "the_end_of_one_is_told_to_the_other"), problems["ended"]) == ""


@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_end_with_the_weights_of_one(problems, out, tiny_packs, tmp_path, case):
    """With mixup, SpecAugment, dropout and batch norms in training mode, but for rounding.

    Adam makes whole steps of gradients that are nothing but rounding, so weights are compared by how far they moved.
    How much float32 convolutions round depends on the processor; a lost or repeated clip would change tenths.
    """
    assert not problems[0, f"both_end_with_the_same_weights_and_rank_0_writes {case}"]
    model = two_processes.trained(tiny_packs["train"].parent, case, tmp_path / case)
    alone, together = two_processes.contents(model), load_file(out / f"{case}.safetensors")
    assert alone.keys() == together.keys()
    before = two_processes.network(two_processes.CASES[case][0], model.labels).state_dict()
    weights = [name for name, _ in model.named_parameters()]
    gradients = [name for name in alone if name.startswith("gradient of")]
    nothing = {name: torch.zeros(()) for name in gradients}
    bound = 1e-3 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 1e-2  # 5e-3 was seen with AVX2
    assert two_processes.distance(alone, together, gradients) < bound * two_processes.distance(
        alone, nothing, gradients
    )
    assert two_processes.distance(alone, together, weights) < 1e-2 * two_processes.distance(alone, before, weights)
    for name in set(alone) - {*weights, *gradients}:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-4, atol=1e-5)
