"""How channels vary on calibration clips, as the layers that read them see them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger
from epanns.pruning.groups import ChannelGroup, Reader
from epanns.pruning.ranking.calibration import CalibrationBatch, clips_in_fours

_ROWS_AT_ONCE = 4096  # positions in float64


def read_covariances(
    model: Tagger, groups: Mapping[str, ChannelGroup], batches: Iterable[CalibrationBatch]
) -> dict[str, Tensor]:
    """Return each group's covariance of channels, weighted as its readers weigh them.

    For a reader r with weights W_r, x_j is channel j of its input (after batch norm, ReLU, pooling, and whatever
    depthwise convolutions lie before it; for `fc1` after the pooling over the clip) and n_rj the Euclidean norm of all
    weights of W_r that multiply it. The result is ``sum_r n_ri Cov_r(x_i, x_j) n_rj``. The covariance is over clips and
    the positions in them; each clip weighs the same. Sums are in float64, one matrix a group whatever the number of
    clips.

    Args:
        model: The network, in any mode, on any device; left as it was.
        groups: What to measure, from `epanns.pruning.engine.channel_groups`.
        batches: Calibration clips; targets are not looked at. Gone through once.

    Returns:
        Group -> ``(width, width)`` float64 on the CPU.

    Raises:
        PruningError: If the clips cannot be used, or what comes out is not finite.
    """
    clips = 0
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model), ExitStack() as hooks:
        sums = {layer: _Sums(model, group) for layer, group in groups.items()}
        hooks.enter_context(_watching(model, groups, sums))
        for waveform, _ in clips_in_fours(model, batches):
            for each in sums.values():
                each.clips_at_once = len(waveform)
            model(waveform)
            clips += len(waveform)
        found = {layer: each.covariance(clips) for layer, each in sums.items()}
    for layer, covariance in found.items():
        if not bool(covariance.isfinite().all()):
            raise PruningError(f"{layer}: not finite on the calibration clips; look for bad clips or weights")
    return found


class _Sums:
    """First and second moments of a group's channels, scaled, over all its readers.

    Attributes:
        clips_at_once: How many clips the next batch is of; a clip may be several segments of it.
    """

    clips_at_once: int

    def __init__(self, model: Tagger, group: ChannelGroup) -> None:
        self._scales = {reader: _reading_norms(model, reader, group.width) for reader in group.readers}
        self._firsts = {reader: torch.zeros(group.width, dtype=torch.float64) for reader in group.readers}
        self._second = torch.zeros(group.width, group.width, dtype=torch.float64)

    def add(self, reader: Reader, read: Tensor) -> None:
        """Take in what a reader reads: ``(batch, channels, *positions)``, or ``(batch, ..., channels)`` if linear."""
        scale = self._scales[reader]
        rows = read[:, reader.offset : reader.offset + len(scale)].movedim(1, -1).flatten(0, -2)
        per_clip = len(rows) // self.clips_at_once
        for part in torch.split(rows, _ROWS_AT_ONCE):
            scaled = part.detach().to("cpu", torch.float64) * scale
            self._firsts[reader] += scaled.sum(dim=0) / per_clip
            self._second.addmm_(scaled.T, scaled, alpha=1 / per_clip)

    def covariance(self, clips: int) -> Tensor:
        """Return the matrix of `read_covariances`."""
        result = self._second / clips
        for first in self._firsts.values():
            result -= torch.outer(first / clips, first / clips)
        result.diagonal().clamp_(min=0)  # of a constant channel rounding leaves less than nothing
        return result


def _reading_norms(model: Tagger, reader: Reader, width: int) -> Tensor:
    """Return ``(width,)`` float64, the norms of the weights that multiply each channel."""
    weight = model.get_submodule(reader.name).get_parameter("weight").detach()
    read = weight[:, reader.offset : reader.offset + width].transpose(0, 1)
    return torch.stack([part.to("cpu", torch.float64).norm() for part in read])


@contextmanager
def _watching(model: Tagger, groups: Mapping[str, ChannelGroup], sums: Mapping[str, _Sums]) -> Iterator[None]:
    def watch(layer: str, reader: Reader, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (read,) = inputs
        sums[layer].add(reader, read.movedim(-1, 1) if isinstance(module, nn.Linear) else read)

    handles = [
        model.get_submodule(reader.name).register_forward_pre_hook(partial(watch, layer, reader))
        for layer, group in groups.items()
        for reader in group.readers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
