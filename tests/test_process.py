"""Freed memory is reused and not returned to the system."""

import subprocess
import sys

from epanns.process import keep_freed_memory

PROGRAM = """
import resource, torch
from epanns.process import keep_freed_memory

def pages_of_a_tensor():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(1 << 24)  # 64 MiB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = [pages_of_a_tensor() for _ in range(10)]
assert keep_freed_memory()
kept = [pages_of_a_tensor() for _ in range(50)][-10:]  # until small things have found their places
print(sum(plain), sum(kept))
"""


def test_freed_memory_is_reused():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    plain, kept = map(int, run.stdout.split())
    assert kept < plain / 4


def test_other_systems_are_left_unchanged(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
