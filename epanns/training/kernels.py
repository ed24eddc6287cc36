"""Which of a GPU's kernels compute the convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def kernels_tried_out() -> Iterator[None]:
    """Let cuDNN try its kernels for each shape of maps and take the fastest one, where there is a GPU.

    The shapes of a run are always the same ones. Which kernel is the fastest may change from run to run, and with it
    the rounding; on a GPU runs do not end with the same bytes anyway, since kernels add up in any order. Whoever asked
    torch for the same bytes each time (`use_deterministic_algorithms`, ``cudnn.deterministic``) has no kernel tried.
    """
    before = torch.backends.cudnn.benchmark
    if not (torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic):
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
