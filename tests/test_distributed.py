"""A single process, and errors about groups that cannot start; see `test_two_processes.py` for those that can."""

import json
import subprocess
import sys

import pytest
import torch

from epanns import distributed
from epanns.errors import ConfigError, EpannsError
from tests.processes import free_port

PLACE = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


def placed(monkeypatch, **changes: str | None) -> None:
    for name, value in (PLACE | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)


def test_a_process_alone_is_the_whole_group():
    rows = torch.randn(3, 2)
    with distributed.process_group("cpu") as device:
        assert (device, distributed.rank(), distributed.world_size()) == ("cpu", 0, 1)
        assert not torch.distributed.is_initialized()
        distributed.any_of(False)
        assert [distributed.any_of(True), distributed.any_of(False)] == [True, False]
        assert distributed.total(rows) is rows
        assert distributed.gather_rows(rows) is rows
        assert (distributed.gather("a"), distributed.broadcast("a"), distributed.on_rank_zero(lambda: "a")) == (
            ["a"],
            "a",
            "a",
        )


def test_one_process_of_torchrun_needs_no_group(monkeypatch):
    placed(monkeypatch, WORLD_SIZE="1", MASTER_PORT=None)
    with distributed.process_group("cuda") as device:
        assert (device, distributed.world_size()) == ("cuda", 1)


def test_alone_nothing_imports_torch():
    code = "import sys, json; from epanns import distributed as d; d.rank(); d.on_rank_zero(dict); "
    code += "context = d.process_group(); context.__enter__(); print(json.dumps('torch' in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(answer) is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"WORLD_SIZE": None},
            "RANK=0 LOCAL_RANK=0 .* without WORLD_SIZE: start with torchrun, which sets",
        ),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "without MASTER_ADDR, MASTER_PORT: .* or unset them to run alone"),
        ({"RANK": "two"}, "RANK=two WORLD_SIZE=2 .*: must be numbers, and RANK below WORLD_SIZE"),
        ({"RANK": "2"}, "RANK=2 WORLD_SIZE=2 .*: must be numbers, and RANK below WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "must be numbers, and RANK below WORLD_SIZE"),
    ],
)
def test_an_incomplete_environment_of_torchrun_is_refused(monkeypatch, changes, message):
    placed(monkeypatch, **changes)
    with pytest.raises(ConfigError, match=message), distributed.process_group("cpu"):
        pass


def refused_to_start(device: str = "cpu") -> str:
    with pytest.raises(EpannsError) as caught, distributed.process_group(device, timeout=1):
        pass
    assert distributed.world_size() == 1
    return f"{type(caught.value).__name__}: {caught.value}"


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    placed(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert refused_to_start("cuda:0").startswith("ConfigError: device='cuda:0' for 2 processes: give cuda, and each")
    assert refused_to_start("cuda").startswith(
        "ConfigError: 2 processes for 1 GPUs of this machine: start no more than"
    )


def test_missing_processes_are_waited_for_until_the_timeout(monkeypatch):
    placed(monkeypatch, MASTER_PORT=str(free_port()))
    said = refused_to_start()
    assert said.startswith("TrainingError: another process of this run has not responded for 1 s (")
    assert said.endswith("unless torchrun restarts the processes, run the same command again")
