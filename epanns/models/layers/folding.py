"""Batch norms folded into the convolutions before them, for scoring and for export.

In evaluation mode a batch norm multiplies each channel by a constant and adds a constant. A convolution with other
weights and a bias does both, which saves a pass over the feature maps.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from epanns.models.layers.convolution import ConvBlock
from epanns.models.tagger import Tagger

Pair = tuple[nn.Module, str, str]  # the parent module, and in it the names of a convolution and of its batch norm


@contextmanager
def batch_norms_folded(model: nn.Module) -> Iterator[None]:
    """Fold the batch norms of Cnn6, Cnn10 and Cnn14 inside the block; restore the modules after it.

    Scores are equal up to rounding. Other families keep their batch norms, and with them the last bits of their scores.
    """
    pairs = [pair for pair in foldable_pairs(model) if isinstance(pair[0], ConvBlock)]
    before = [(parent, dict(parent._modules)) for parent, _, _ in pairs]
    try:
        for pair in pairs:
            _fold(*pair)
        yield
    finally:
        for parent, modules in reversed(before):
            parent._modules.update(modules)


def fold_batch_norms(model: nn.Module) -> None:
    """Fold every batch norm that follows a convolution, in place and in float64, and leave the others.

    A batch norm behind an average pooling without padding, as in MobileNets, is folded into the convolution before it:
    the mean of values that were scaled and shifted is the mean, scaled and shifted.
    """
    for pair in foldable_pairs(model):
        _fold(*pair, dtype=torch.float64)


def foldable_pairs(model: nn.Module) -> list[Pair]:
    """Return each convolution whose output goes, at most average-pooled, to one batch norm and nowhere else.

    They are recognised by the names that all families share: ``conv1`` and ``bn1``, ``downsample`` and
    ``bn_downsample``, or neighbours in an `nn.Sequential`. A batch norm in training mode is no pair, nor are modules
    with hooks or with a computed weight.
    """
    idle = model.idle_layers if isinstance(model, Tagger) else ()
    pairs = []
    for path, parent in model.named_modules():
        children = dict(parent.named_children())
        for name, norm in children.items():
            conv_name = _convolution_before(parent, children, name)
            if (
                f"{path}.{name}".lstrip(".") in idle
                or conv_name is None
                or norm.training
                or not isinstance(norm, _BatchNorm)
            ):
                continue
            if _is_special(children[conv_name]) or _is_special(norm) or norm.running_mean is None:
                continue
            pairs.append((parent, conv_name, name))
    return pairs


def _convolution_before(parent: nn.Module, children: dict[str, nn.Module], norm_name: str) -> str | None:
    """Return the name of the convolution whose output the batch norm of that name normalises; None without one."""
    if isinstance(parent, nn.Sequential):
        names = list(children)[: list(children).index(norm_name)]
        while names and isinstance(pool := children[names[-1]], nn.AvgPool1d | nn.AvgPool2d):
            if pool.padding not in (0, (0,), (0, 0)):
                break
            names.pop()
        candidates = names[-1:]
    else:
        candidates = [norm_name.replace("bn", "conv"), norm_name.removeprefix("bn_")]
    return next((name for name in candidates if isinstance(children.get(name), nn.Conv1d | nn.Conv2d)), None)


def _is_special(module: nn.Module) -> bool:
    """Return whether a module has hooks, or computes its weight from something else."""
    has_weight = "weight" in module._parameters or "weight" in module._buffers
    return bool(module._forward_hooks or module._forward_pre_hooks) or not has_weight


def _fold(parent: nn.Module, conv_name: str, norm_name: str, dtype: torch.dtype | None = None) -> None:
    """Replace a convolution by one with the batch norm folded in, computed in `dtype`, and the norm by the identity."""
    conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv1d | nn.Conv2d) and isinstance(norm, _BatchNorm)
    own = conv.weight.dtype

    def cast(tensor: Tensor | None) -> Any:
        return None if tensor is None else tensor.to(dtype or tensor.dtype)

    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(
            cast(conv.weight),
            cast(conv.bias),
            cast(norm.running_mean),
            cast(norm.running_var),
            norm.eps,
            cast(norm.weight),
            cast(norm.bias),
        )
    folded = copy.copy(conv)
    folded._parameters = {
        "weight": nn.Parameter(weight.to(own), requires_grad=False),
        "bias": nn.Parameter(bias.to(own), requires_grad=False),
    }
    parent._modules.update({conv_name: folded, norm_name: nn.Identity()})
