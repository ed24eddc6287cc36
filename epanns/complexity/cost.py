"""Costs of a network as plain data; `epanns.complexity.macs` counts them, and reports read them without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerCost:
    """A layer with parameters or multiply-adds.

    Attributes:
        name: Module name, such as ``conv_block4.conv1``.
        width: Number of output channels; 0 for a layer without parameters.
        n_params: Number of its weights and biases.
        macs: Multiply-adds for one clip; 0 for a batch norm.
    """

    name: str
    width: int
    n_params: int
    macs: int


@dataclass(frozen=True)
class ModelCost:
    """Size and operations of a network for one clip, the operations in three conventions.

    Attributes:
        name: Name of the specification.
        sample_rate: Hz.
        clip_seconds: Length of the clip in seconds.
        n_params: Number of weights, biases and batch-norm scales and shifts, frozen or not.
        n_params_with_front_end: `n_params` plus the frozen STFT kernels and mel matrix in PANNs' files; equal to
            `n_params` for networks on the waveform alone, whose files have none.
        n_params_with_statistics: `n_params` plus the running means and variances of batch norms: Keras' total, and
            LEAN's convention.
        n_params_folded: Number of parameters after batch norms are folded into the layers before them: of each batch
            norm the shifts remain, as biases. The batch norm of the mel bins, which follows no layer, keeps its scales.
        param_bytes: Bytes of `n_params` in float32.
        backbone_macs: Convolutions, linear and recurrent layers and the products of attention, one multiply-add = 1.
        front_end_macs: STFT as two convolutions plus the mel matrix, as torchlibrosa computes them; included in the
            published "36 % fewer" of E-PANNs. 0 for networks on the waveform alone.
        panns_multiply_adds: PANNs' own count: 2 per multiply-add, biases, 2 per batch-norm element, ReLUs and poolings
            that are modules (the residual and mobile families'), the STFT's convolutions but not the mel matrix
            (audioset_tagging_cnn, `pytorch_utils.count_flops`).
        layers: Layers with parameters or multiply-adds, in forward order.
        uncounted: Operation -> number of calls in one forward pass that `backbone_macs` leaves out, without views and
            allocations.
    """

    name: str
    sample_rate: int
    clip_seconds: float
    n_params: int
    n_params_with_front_end: int
    n_params_with_statistics: int
    n_params_folded: int
    param_bytes: int
    backbone_macs: int
    front_end_macs: int
    panns_multiply_adds: int
    layers: tuple[LayerCost, ...]
    uncounted: Mapping[str, int]

    @property
    def macs_with_front_end(self) -> int:
        """Sum of the MACs of backbone and front end."""
        return self.backbone_macs + self.front_end_macs

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of ``epanns profile --json``."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers], "uncounted": dict(self.uncounted)}

    def summary(self) -> dict[str, Any]:
        """Return `to_dict` without lists, for run records."""
        return {key: value for key, value in self.to_dict().items() if key not in ("layers", "uncounted")}


@dataclass(frozen=True)
class Latency:
    """Wall time of one clip through the network.

    Attributes:
        median: Median over the repeats after the warm-up, in milliseconds.
        min: Fastest repeat, in milliseconds.
        max: Slowest repeat, in milliseconds.
        threads: Number of CPU threads inside one operation.
        runtime: Runtime of the network, such as ``torch 2.11.0 eager cpu``.
        dtype: Type of the weights.
    """

    median: float
    min: float
    max: float
    threads: int
    runtime: str
    dtype: str

    @property
    def spread(self) -> float:
        """(max - min) / median, the reliability of the median."""
        return (self.max - self.min) / self.median

    def to_dict(self) -> dict[str, Any]:
        """Return the value of ``latency_ms`` in ``epanns profile --latency --json``."""
        return asdict(self)
