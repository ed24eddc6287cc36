"""Evaluation protocols: a clip is scored whole, or in windows whose scores are aggregated."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from epanns.errors import ConfigError
from epanns.models.layers.pooling import probabilities_of
from epanns.strict import BOOLEAN, Rule, check_fields, number, one_of, or_none

# name -> function of the logits and probabilities, each (windows, classes) of one clip, and of the network's activation
# that returns (classes,) in [0, 1]. For a softmax, `mean_prob` and `mean_logit` sum to 1, `max_prob` does not.
AGGREGATES: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "mean_prob": lambda logits, probabilities, activation: probabilities.mean(dim=0),
    "mean_logit": lambda logits, probabilities, activation: probabilities_of(logits.mean(dim=0), activation),
    "max_prob": lambda logits, probabilities, activation: probabilities.amax(dim=0),
}

_SHORTEST, _LONGEST = 0.01, 3600  # seconds; other windows are probably in a wrong unit, and need too much memory

_SECONDS = or_none(number("a number of seconds", lambda value: True))
PROTOCOL_RULES: Mapping[str, Rule] = {
    "window": _SECONDS,
    "hop": _SECONDS,
    "aggregate": one_of(AGGREGATES),
    "own_length": BOOLEAN,
}


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a clip is scored: whole or in windows.

    Without a window the network scores the clip as packed, padding included, as PANNs were evaluated. With a window it
    scores windows of the clip without padding::

        clip    |-----------------------|          n_samples
        windows |---------|
                     |---------|                   every hop
                          |---------|
                              |---------|          the tail: one more window, shifted back to end with the clip

    A clip shorter than the window is repeated up to it. With `own_length` the network scores the clip without padding
    (``variable_eval`` of PaSST and EfficientAT); clips shorter than the network's minimum are repeated.

    Attributes:
        window: Length in seconds, > 0; None for the whole clip.
        hop: Seconds between window starts, in (0, window]; None for adjacent windows.
        aggregate: Name in `AGGREGATES` of the function that combines the scores of a clip's windows.
        own_length: Whether to score whole clips without their padding; only without a window.

    Raises:
        ConfigError: If a value is out of range, or does not apply with or without a window.
    """

    window: float | None = None
    hop: float | None = None
    aggregate: str = "mean_prob"
    own_length: bool = False

    def __post_init__(self) -> None:
        check_fields(self, PROTOCOL_RULES)
        if self.window is None:
            given = [f"hop={self.hop}"] if self.hop is not None else []
            given += [f"aggregate={self.aggregate!r}"] if self.aggregate != "mean_prob" else []
            if given:
                raise ConfigError(f"{', '.join(given)} without a window: applies to windows alone; give window too")
            return
        if self.own_length:
            raise ConfigError(f"own_length: windows of {self.window} s have no padding: give one of the two")
        if not _SHORTEST <= self.window <= _LONGEST:
            raise ConfigError(f"window={self.window}: must be a length in seconds, {_SHORTEST} to {_LONGEST}")
        if self.hop is not None and not 0 < self.hop <= self.window:
            raise ConfigError(f"hop={self.hop}: must be in (0, window={self.window}], or samples would be skipped")
        if self.hop is not None and self.hop < _SHORTEST:
            raise ConfigError(f"hop={self.hop}: must be at least {_SHORTEST} s")

    def settings(self) -> dict[str, float | str | bool]:
        """Return the settings other than scoring the whole clip, as JSON values; equal for equal protocols."""
        found: dict[str, float | str | bool] = {}
        if self.window is not None:
            hop = self.window if self.hop is None else self.hop
            found |= {"window": float(self.window), "hop": float(hop), "aggregate": self.aggregate}
        return found | ({"own_length": True} if self.own_length else {})

    def describe(self) -> str:
        """Return the protocol in words; equal for equal protocols."""
        if self.window is None:
            return "whole clip at its own length, without padding" if self.own_length else "whole clip"
        hop = self.window if self.hop is None else self.hop
        edges = "last window shifted back, short clips repeated"
        return f"{self.window:g} s windows, {hop:g} s hop, {self.aggregate} ({edges})"


def windows_of(blocks: Iterable[Tensor], window: int, hop: int) -> Iterator[tuple[int, Tensor]]:
    """Cut a recording of any length into windows, with at most a window and a block in memory.

    Windows start at multiples of `hop`. If the last does not end with the recording, another window does.

    Args:
        blocks: Consecutive parts of the recording, ``(samples,)`` each.
        window: Number of samples of a window.
        hop: Number of samples between window starts.

    Yields:
        Start of a window in samples, and the window ``(window,)``; a shorter recording is its only window.
    """
    held: list[Tensor] = []
    first = total = start = 0  # first sample in memory, number of samples read, start of the next window
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
