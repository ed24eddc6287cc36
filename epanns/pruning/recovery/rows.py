"""What a layer reads and what it gives, as rows of a regression: one for each place at which its kernel is laid."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.seeding import numpy_generator


def places_per_clip(layer: nn.Module, output: Tensor) -> int:
    """Return how many rows a clip has: time steps, places of a map, or frames that a linear layer reads."""
    if isinstance(layer, nn.Linear):
        return output[0].numel() // output.shape[-1]
    return output[0, 0].numel()


def chosen_places(layer: str, clip: int, places: int, most: int) -> Tensor:
    """Return at most `most` of a clip's places, ascending, spread evenly over it.

    The places are cut into `most` equally long stretches, and one is drawn from each, by layer and clip: the same
    however the clips come in batches.

    Args:
        layer: Name of the layer.
        clip: Number of the clip.
        places: How many there are.
        most: How many are wanted.
    """
    if places <= most:
        return torch.arange(places)
    drawn = numpy_generator("places", layer, clip).random(most)
    return torch.from_numpy(((torch.arange(most).numpy() + drawn) * (places / most)).astype("int64"))


def input_rows(layer: nn.Module, values: Tensor, places: Tensor) -> Tensor:
    """Return what the layer's weights are multiplied with, ``(clips * places, weights per output)``.

    Args:
        layer: Linear layer or convolution with zero padding, in one group.
        values: Its input, ``(clips, channels, ...)``, for a linear layer ``(clips, ..., channels)``.
        places: ``(clips, places)``, in the order of the layer's output.

    Returns:
        Rows in the order of ``layer.weight.flatten(1)``.
    """
    clips = torch.arange(len(values), device=values.device)[:, None]
    places = places.to(values.device)
    if isinstance(layer, nn.Linear):
        return values.reshape(len(values), -1, values.shape[-1])[clips, places].flatten(0, 1)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d) and not isinstance(layer.padding, str)
    assert layer.groups == 1 and layer.padding_mode == "zeros"
    if values.dim() == 3:
        values = values.unsqueeze(2)  # (clips, channels, 1, time)
    missing = 2 - len(layer.kernel_size)
    kernel, stride, dilation = ((1,) * missing + size for size in (layer.kernel_size, layer.stride, layer.dilation))
    padding = (0,) * missing + layer.padding
    windows = F.pad(values, (padding[1], padding[1], padding[0], padding[0]))
    for axis in (0, 1):
        span = (kernel[axis] - 1) * dilation[axis] + 1
        windows = windows.unfold(2 + axis, span, stride[axis])[..., :: dilation[axis]]
    # (clips, channels, rows, columns, kernel rows, kernel columns): a view, of which the places are copied
    columns = windows.shape[3]
    return windows[clips, :, places // columns, places % columns].flatten(2).flatten(0, 1)


def output_rows(layer: nn.Module, values: Tensor, places: Tensor) -> Tensor:
    """Return the layer's output as rows, ``(clips * places, outputs)``; arguments as in `input_rows`."""
    clips = torch.arange(len(values), device=values.device)[:, None]
    places = places.to(values.device)
    if isinstance(layer, nn.Linear):
        return values.reshape(len(values), -1, values.shape[-1])[clips, places].flatten(0, 1)
    return values.flatten(2)[clips, :, places].flatten(0, 1)
