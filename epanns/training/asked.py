"""What was asked of a run or measurement, and how that differs from what is asked now; without torch."""

from collections.abc import Mapping
from typing import Any


def first_difference(before: Any, asked: Any, prefix: str = "") -> str:
    """Say where two configurations first differ, as ``training.batch_size=32, not 16``."""
    if isinstance(before, Mapping) and isinstance(asked, Mapping):
        for key in sorted({*before, *asked}):
            if before.get(key) != asked.get(key):
                return first_difference(before.get(key), asked.get(key), f"{prefix}.{key}" if prefix else key)
    return f"{prefix}={before!r}, not {asked!r}"
