"""Training on several processes: shares of a batch, gradient exchange, and batch norms over the whole batch."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from epanns.data.batches.sampler import places_of_step
from epanns.distributed import gather, rank, total, world_size
from epanns.errors import ConfigError, TrainingError
from epanns.models.tagger import Tagger
from epanns.training.config import TrainingConfig


def own_places(config: TrainingConfig) -> list[int]:
    """Return the positions of this process's clips in the batch of a step.

    Raises:
        ConfigError: If the batch cannot be divided, or several processes are to compile.
    """
    if config.compile and world_size() > 1:
        # The communication of batch norms would break the graph into pieces too small to gain from compilation.
        raise ConfigError(f"compile=True with {world_size()} processes: leave out --compile, or start one process")
    least = config.accumulate * world_size()
    if config.batch_size % least:
        parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be shared out to {world_size()} processes{parts}: "
            f"take a multiple of {least} (--batch-size)"
        )
    drawn = config.drawn_clips
    together = drawn // config.batch_size
    return places_of_step(drawn, together=together, parts=config.accumulate, rank=rank(), world_size=world_size())


def require_same_step(step: int) -> None:
    """Refuse to resume where the processes have read states of different steps.

    Raises:
        TrainingError: On all processes.
    """
    steps = gather(step)
    if len(set(steps)) > 1:
        raise TrainingError(
            f"the processes found the run at steps {', '.join(map(str, steps))}: --out must be on a disk they share"
        )


class SharedNetwork:
    """A network that each process calls with its own clips; gradients become the mean over all processes.

    With one process it is the network itself.
    """

    def __init__(self, model: Tagger, *, called: nn.Module) -> None:
        """Copy the weights of rank 0 to `model`; `called` is `model` or, with one process, its compiled form."""
        self._model, self._called = model, called
        self._wrapped: DistributedDataParallel | None = None
        self._learning: list[bool] = []
        self.now()

    def now(self) -> nn.Module:
        """Return the module to call instead of the network, for the parameters that are trainable at present."""
        learning = [parameter.requires_grad for parameter in self._model.parameters()]
        if world_size() == 1:
            return self._called
        if self._wrapped is None or learning != self._learning:
            self._wrapped, self._learning = None, learning  # release the parameters before they are wrapped again
            device = next(self._model.parameters()).device
            self._wrapped = DistributedDataParallel(
                self._called,
                device_ids=None if device.type == "cpu" else [device],
                broadcast_buffers=False,  # batch norms read the clips of all processes, so buffers are equal
                find_unused_parameters=any(
                    parameter.requires_grad
                    for name in self._model.idle_layers
                    for parameter in self._model.get_submodule(name).parameters()
                ),
            )
        return self._wrapped

    @contextmanager
    def exchanging(self, exchanging: bool) -> Iterator[None]:
        """Exchange gradients in a backward pass inside the block, or only accumulate them on each process."""
        if exchanging or self._wrapped is None:
            yield
        else:
            with self._wrapped.no_sync():
                yield


@contextmanager
def synchronised_batch_norms(model: nn.Module) -> Iterator[None]:
    """Make batch norms in training mode normalise by the statistics over all processes, on CPU and GPU.

    Outputs, gradients and running statistics equal those of one process with the whole batch up to rounding, and the
    running statistics are bit-identical on all processes. Batch norms in evaluation mode, and all batch norms of a
    single process, are unchanged. Modules and state dict stay the same objects.
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
    """Replace ``norm(x)`` of ``(batch, channels, ...)``; computes in float32 under autocast too, or in float64."""
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

    Each process keeps its values relative to its own mean. Only sums are exchanged, in float64, in which the small
    difference of large second moments keeps the digits of float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        """Return the normalised values, and of each channel over all processes count, mean and variance in float64."""
        over, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        own_mean = x.mean(over)
        centred = x - own_mean.view(shape)
        # `left` is the rounding error of the mean: ignored, it would change the second moment by 2 |m| times itself.
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
        """Return the gradients; those of weight and bias are of this process's clips alone, as in other layers."""
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
