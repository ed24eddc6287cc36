"""Batch norms that see the whole batch, of which each process has a part."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.distributed import total, world_size


@contextmanager
def synchronised_batch_norms(model: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode normalise by the statistics of all processes' clips, on CPU and GPU alike.

    The outputs, gradients and running statistics are those of one process with the whole batch, but for rounding, and
    the running statistics are bit for bit the same on all. Those in evaluation mode work as before, and so do all of
    them where there is one process. Modules and state dict are the same ones inside the block and behind it.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and world_size() > 1]
    for norm in norms:
        norm.forward = functools.partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Do what ``norm(x)`` does, for ``(batch, channels, ...)``; in float32 under autocast too, float64 stays."""
    if not norm.training:
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)  # type: ignore[no-untyped-call]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y, count, mean, variance = _Normalised.apply(wide, norm.weight, norm.bias, norm.eps)
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean), share)
        norm.running_var.lerp_((variance * count / (count - 1).clamp(min=1)).to(norm.running_var), share)
    return y.to(x.dtype)  # type: ignore[no-any-return]


class _Normalised(torch.autograd.Function):
    """Batch normalisation over all processes.

    With m, v and n the mean, the variance and the number of values of a channel over all processes, w its weight,
    s = 1 / sqrt(v + eps), c = x - m, and sums over all processes::

        y  = c s w + bias
        dx = s w (dy - sum(dy) / n - c s^2 sum(c dy) / n)

    Each process keeps its values relative to its own mean. Only sums leave it, in float64, where the small difference
    of large second moments keeps float32's digits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        """Return the normalised values, and of each channel over all processes: number, mean and variance, float64."""
        over, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        own_mean = x.mean(over)
        centred = x - own_mean.view(shape)
        # What rounding left of the mean in `left` would weigh 2 |m| in the second moment.
        middle, left, squares = own_mean.double(), centred.sum(over).double(), (centred * centred).sum(over).double()
        n = torch.full_like(middle, x.numel() // x.shape[1])
        sums = total(torch.stack([n, n * middle + left, squares + 2 * middle * left + n * middle**2]))
        count, mean = sums[0], sums[1] / sums[0]
        variance = (sums[2] / count - mean**2).clamp(min=0)
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        offset = middle - mean
        shift = offset * scale if bias is None else offset * scale + bias
        ctx.save_for_backward(centred, count, offset, inverse, scale)
        ctx.mark_non_differentiable(count, mean, variance)
        y = torch.addcmul(shift.to(x).view(shape), centred, scale.to(x).view(shape))
        return y, count, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; those of weight and bias are of this process's clips alone, as any layer's are."""
        centred, count, offset, inverse, scale = ctx.saved_tensors
        over, shape = [0, *range(2, dy.dim())], [1, -1, *[1] * (dy.dim() - 2)]
        of_bias = dy.sum(over).double()
        products = (dy * centred).sum(over).double() + offset * of_bias
        given = ctx.needs_input_grad
        of_scale = (products * inverse).to(dy) if given[1] else None, of_bias.to(dy) if given[2] else None
        if not given[0]:
            return None, *of_scale, None
        all_dy, all_products = total(torch.stack([of_bias, products])) / count
        slope = -scale * inverse**2 * all_products
        dx = torch.addcmul((offset * slope - scale * all_dy).to(dy).view(shape), centred, slope.to(dy).view(shape))
        return dx.addcmul_(dy, scale.to(dy).view(shape)), *of_scale, None
