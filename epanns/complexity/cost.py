"""What a network costs, as plain data; `epanns.complexity.macs` counts it, reports read it without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerCost:
    """One layer that holds parameters or does multiply-adds.

    Attributes:
        name: Module name, such as ``conv_block4.conv1``.
        width: Output channels; 0 where the layer only multiplies what others give.
        n_params: Its own weights and biases.
        macs: Multiply-adds for one clip; 0 for a batch norm, which no convention here counts as multiply-adds.
    """

    name: str
    width: int
    n_params: int
    macs: int


@dataclass(frozen=True)
class ModelCost:
    """Size and work of a network for one clip; three conventions for the work, each under its own name.

    Attributes:
        name: Name of the specification.
        sample_rate: Hz.
        clip_seconds: Length of the clip every count below is for.
        n_params: Every weight, bias and batch-norm scale and shift, frozen by the user or not.
        n_params_with_front_end: Plus the frozen STFT kernels and mel matrix that PANNs' files hold; the same for
            networks on the waveform alone, whose files hold none.
        n_params_with_statistics: `n_params` and the batch norms' running means and variances: what Keras calls total,
            LEAN's convention.
        n_params_folded: What is left where batch norms are folded into the layer before: their shifts, as its biases.
            The one of the mel bins, which follows no layer, keeps its scale too.
        param_bytes: `n_params` in float32.
        backbone_macs: Convolutions, linear and recurrent layers and the products of attention, one multiply-add = 1.
        front_end_macs: STFT as two convolutions plus the mel matrix, as torchlibrosa computes them. With it, the
            published "36 % fewer" of E-PANNs comes out. 0 for networks on the waveform alone.
        panns_multiply_adds: PANNs' own count: 2 per multiply-add, biases, 2 per batch-norm element, ReLUs and poolings
            that are modules (the residual and mobile families'), the STFT's convolutions but not the mel matrix
            (audioset_tagging_cnn, `pytorch_utils.count_flops`).
        layers: Every layer with parameters or multiply-adds, in the order of the network.
        uncounted: Operation -> calls met in one forward pass that `backbone_macs` leaves out (views
            and allocations excepted, which do no work).
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
        """Backbone and front end together."""
        return self.backbone_macs + self.front_end_macs

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of ``epanns profile --json``."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers], "uncounted": dict(self.uncounted)}

    def summary(self) -> dict[str, Any]:
        """Return `to_dict` without the lists: what a run record keeps."""
        return {key: value for key, value in self.to_dict().items() if key not in ("layers", "uncounted")}


@dataclass(frozen=True)
class Latency:
    """Wall time of one clip through the whole network, waveform in, tags out.

    Attributes:
        median: Milliseconds, over the repeats after the warm-up.
        min: Fastest repeat, milliseconds.
        max: Slowest repeat, milliseconds.
        threads: CPU threads used inside one operation.
        runtime: What executed the network, such as ``torch 2.11.0 eager cpu``.
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
        """(max - min) / median: how far to trust the median."""
        return (self.max - self.min) / self.median

    def to_dict(self) -> dict[str, Any]:
        """Return the value of ``latency_ms`` in ``epanns profile --latency --json``."""
        return asdict(self)
