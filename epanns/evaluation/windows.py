"""Windows of a recording that cover every sample of it, cut as the recording arrives."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def windows_of(blocks: Iterable[Tensor], window: int, hop: int) -> Iterator[tuple[int, Tensor]]:
    """Cut a recording of any length into windows; at most a window and a block are kept in memory.

    Windows start at multiples of `hop`; where they do not end with the recording, one more is shifted back to do so.

    Args:
        blocks: ``(samples,)`` each, one after the other.
        window: Samples of a window.
        hop: Samples between window starts.

    Yields:
        Start of a window in samples, and the window ``(window,)``; a shorter recording is its own only window.
    """
    held: list[Tensor] = []
    first = total = start = 0  # the first sample that is held, the first not yet seen, the start of the next window
    for block in blocks:
        held.append(block)
        total += len(block)
        if start + window <= total:
            held = [torch.cat(held)]
        while start + window <= total:
            yield start, held[0][start - first : start - first + window]
            start += hop
        needed = min(start, max(0, total - window))  # the last window may end with the recording
        while held and first + len(held[0]) <= needed:
            first += len(held.pop(0))
        if held:
            held[0], first = held[0][max(0, needed - first) :], max(first, needed)
    if total and (start == 0 or start - hop + window < total):
        yield max(0, total - window), torch.cat(held)[max(0, total - window) - first :]


def cut_windows(clip: Tensor, window: int, hop: int) -> Tensor:
    """Cut a clip ``(samples,)`` into windows ``(windows, window)``; a short clip is repeated up to one window."""
    if len(clip) < window:
        clip = clip.repeat(math.ceil(window / len(clip)))[:window]
    return torch.stack([piece for _, piece in windows_of([clip], window, hop)])
