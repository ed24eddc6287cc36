"""Batch norms as a part of the convolutions before them, while a network only scores.

In evaluation mode a batch norm multiplies each channel by a number and adds one. The convolution before it can do both
with other weights, and one pass over the maps is spared.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from epanns.models.convolution import ConvBlock


@contextmanager
def batch_norms_folded(model: nn.Module) -> Iterator[None]:
    """Let the convolutions of Cnn6, Cnn10 and Cnn14 do the work of their batch norms, in evaluation mode, inside.

    Scores are the same up to rounding. Afterwards the network has its own modules again, as they were. Nothing is
    folded where a batch norm does anything else: while it learns, or where somebody listens to it
    or to the convolution with a hook.
    """
    blocks = [module for module in model.modules() if isinstance(module, ConvBlock)]
    before = [(block, dict(block._modules)) for block in blocks]
    try:
        for block in blocks:
            for index in range(1, block.depth + 1):
                _fold(block, f"conv{index}", f"bn{index}")
        yield
    finally:
        for block, modules in before:
            block._modules.update(modules)


def _fold(block: ConvBlock, conv_name: str, norm_name: str) -> None:
    """Replace a convolution by one that does the batch norm's work too, and the batch norm by nothing."""
    conv, norm = block.get_submodule(conv_name), block.get_submodule(norm_name)
    if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)) or norm.training:
        return
    if _is_special(conv) or _is_special(norm):
        return
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return
    folded = copy.copy(conv)
    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias)
    folded._parameters = {"weight": weight, "bias": bias}
    block._modules.update({conv_name: folded, norm_name: nn.Identity()})


def _is_special(module: nn.Module) -> bool:
    """Return whether somebody listens to a module, or its weight is computed from something else."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "weight" not in module._parameters
