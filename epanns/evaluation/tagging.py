"""The scores of a recording's windows, computed while it is decoded."""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from epanns.audio.waveform import WaveformStream
from epanns.evaluation.predict import score_windows
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.windows import windows_of
from epanns.models.tagger import Tagger

WHOLE_SECONDS = 30  # a feature map of more would take gigabytes
WINDOW_SECONDS = 10  # the clip length PANNs were trained on


@dataclass(frozen=True)
class ScoredWindow:
    """A part of a recording and its scores.

    Attributes:
        start, end: In seconds from the beginning of the recording.
        scores: ``(classes,)`` probabilities, float32 on the CPU.
    """

    start: float
    end: float
    scores: Tensor


def score_recording(model: Tagger, stream: WaveformStream, protocol: EvaluationProtocol) -> Iterator[ScoredWindow]:
    """Score a recording window by window; memory does not grow with its length.

    Args:
        model: Tagger; evaluated on its own device, and left in the mode it was in.
        stream: The recording, at the model's sample rate.
        protocol: Window and hop. Without a window a recording of up to `WHOLE_SECONDS` is scored whole, a longer one in
            windows of `WINDOW_SECONDS`. One that is shorter than the window is scored at its own length.

    Raises:
        DataError: If the recording cannot be decoded to its end.
        CheckpointError: If a score is not finite.
    """
    rate = stream.sample_rate
    blocks: Iterator[Tensor] = map(torch.from_numpy, stream)
    if protocol.window is None:
        blocks, window = _whole_or_windows(blocks, rate)
    else:
        window = max(1, round(protocol.window * rate))
    hop = window if protocol.hop is None else max(1, round(protocol.hop * rate))
    places: deque[tuple[int, int]] = deque()

    def pieces() -> Iterator[Tensor]:
        for start, piece in windows_of(blocks, window, hop):
            places.append((start, start + len(piece)))
            yield piece

    for scores in score_windows(model, pieces()):
        for row in scores:
            start, end = places.popleft()
            yield ScoredWindow(round(start / rate, 6), round(end / rate, 6), row)


def _whole_or_windows(blocks: Iterator[Tensor], rate: int) -> tuple[Iterator[Tensor], int]:
    """Return the blocks of a recording, and the samples of its windows."""
    held: list[Tensor] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) > WHOLE_SECONDS * rate:
            return itertools.chain(held, blocks), WINDOW_SECONDS * rate
    return iter(held), sum(map(len, held))
