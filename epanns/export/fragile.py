"""Activations that eight bits are too few for: they stay in float32, and with them the arithmetic beside them.

One tensor can spoil a network. In YAMNet it is what the depthwise convolution of layer 13 reads: its filters take
differences of large numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from epanns.export.graph import Array
from epanns.export.quantise import quantised
from epanns.export.sessions import Inputs, outputs_of

FAITHFUL = 0.995  # correlation of logits with float32's that is aimed at
MOST = 6  # activations that may stay in float32
_CLIPS = 32

Ranges = Mapping[str, tuple[float, float]]


def fragile_activations(
    model: onnx.ModelProto, ranges: Ranges, batches: Sequence[Inputs]
) -> tuple[tuple[str, ...], float]:
    """Return the activations to leave in float32, and how far the logits then correlate with float32's.

    None where the correlation is `FAITHFUL` anyway. Else each activation is brought to int8 alone, everything else in
    float32, and those that cost most are left out first, until it is, or `MOST` are.

    Args:
        model: In float32, channels equalised.
        ranges: Of every activation that could be in int8.
        batches: Clips of calibration; 32 of them are heard.
    """
    heard = batches[:: max(1, len(batches) // _CLIPS)][:_CLIPS]
    truth = _logits(model, heard)
    faithful = correlation(_logits(quantised(model, ranges), heard), truth)
    if faithful >= FAITHFUL:
        return (), faithful
    alone = {
        name: correlation(_logits(quantised(model, {name: ranges[name]}, weights=False), heard), truth)
        for name in ranges
    }
    left_out: list[str] = []
    for name in sorted(alone, key=lambda name: alone[name])[:MOST]:
        left_out.append(name)
        kept = {other: ends for other, ends in ranges.items() if other not in left_out}
        faithful = correlation(_logits(quantised(model, kept), heard), truth)
        if faithful >= FAITHFUL:
            break
    return tuple(name for name in ranges if name in left_out), faithful


def correlation(one: Array, other: Array) -> float:
    """Return the correlation of all values; of constants 1 where they are equal and 0 where not."""
    if not one.std() or not other.std():
        return float(np.allclose(one, other))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _logits(model: onnx.ModelProto, batches: Sequence[Inputs]) -> Array:
    return np.concatenate([logits for (logits,) in outputs_of(model, batches, ["clipwise_logits"])])
