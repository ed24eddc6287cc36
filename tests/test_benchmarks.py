"""Benchmarks for a GPU run in small on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_benchmark_of_training_runs_in_small_on_the_cpu():
    """The rate, the share and the waiting come from a real run; nothing is recorded without a GPU."""
    command = [sys.executable, "benchmarks/train_gpu.py", "--device", "cpu", "--width", "0.03", "--batch-size", "2"]
    command += ["--iterations", "4", "--clips", "20", "--matrix", "256", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = r"cpu: \d+% of [\d.e+-]+ TFLOP/s; ([\d.]+) clips/s; ([\d.]+)% of the time waiting for data; nothing is saved"
    rate, waiting = map(float, re.search(said, ended.stdout).groups())
    assert rate > 0
    assert 0 <= waiting < 100
    assert not (REPOSITORY / "results" / "benchmarks" / "train_gpu.json").exists()
