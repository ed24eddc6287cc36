"""What networks that read the waveform itself have in common."""

from torch import Tensor, nn

from epanns.models.pooling import pool_time
from epanns.models.tagger import Features, Tagger, mix_pairs


class WaveformTagger(Tagger):
    """A tagger without a front end: its stages start from the waveform and end in ``(batch, channels, time)``."""

    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the waveform as it is, ``(batch, samples)``."""
        return (self.in_own_type(waveform),)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return ``(1, samples)``."""
        return [(1, samples)]

    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Mix pairs of waveforms; PANNs use no SpecAugment here. Returns ``(batch, 1, samples)``."""
        (waveform,) = inputs
        return (mix_pairs(waveform, mixup_lambda)[:, None],)

    def pooled(self, features: Features) -> Tensor:
        """Return what `fc1` reads, ``(batch, channels)``, of the last stage's ``(batch, channels, time)``."""
        (last,) = features
        return pool_time(last)


def conv1d(
    inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> nn.Conv1d:
    """Return a convolution over time as in PANNs: no bias, Xavier uniform weights."""
    conv = nn.Conv1d(inputs, outputs, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return conv
