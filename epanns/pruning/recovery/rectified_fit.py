"""Least squares behind the ReLU: fits of a reader that count only what the ReLU behind it lets through.

Most outputs of a trained network's later layers are negative most of the time, and the ReLU removes their errors.
Asymmetric reconstruction with the nonlinearity (Zhang et al. 2016, arXiv 1505.06798, section 3.2) alternates between
two steps: choose auxiliary targets, equal to the unpruned network's output y where the ReLU passes y, and elsewhere
anything the ReLU maps to zero, nearest to the current prediction; and solve least squares for these targets. The paper
relaxes the second condition by a penalty; here each step is exact, and lowers the squared error behind the ReLU.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger
from epanns.pruning.surgery import zero_inputs
from epanns.seeding import torch_generator

_MOST_ROW_BYTES = 512 << 20  # of rows held in float32; of more, every second row is dropped
_RIDGES = (1.0, 10.0, 100.0, 1000.0)  # times the given ridge
_LEAST_VARIANCE = 1e-3  # of an output, relative to the mean of all outputs, by which its error is divided
_FLOOR = 1e-6  # of the ridge of an input that hardly varies, relative to the mean variance
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)

Row = tuple[Tensor, Tensor]


def rectified_layers(model: Tagger) -> frozenset[str]:
    """Return the convolutions and linear layers whose output a ReLU reads, directly or behind a batch norm."""
    outputs: list[tuple[Tensor, int, str]] = []  # with the version, since an addition in place changes the tensor
    found: set[str] = set()

    def sources(read: Tensor) -> list[str]:
        return [layer for value, version, layer in outputs if value is read and version == read._version]

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in _RELUS:
                found.update(sources(args[0]))
            return function(*args, **(kwargs or {}))

    def after_layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append((output, output._version, name))

    def after_norm(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.extend((output, output._version, layer) for layer in sources(inputs[0]))

    hooks = [
        module.register_forward_hook(partial(after_layer, name))
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)
        else module.register_forward_hook(after_norm)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | _BatchNorm)
    ]
    try:
        with evaluation_mode(model), torch.inference_mode(False), torch.no_grad(), Watch():
            model.forward_inputs(zero_inputs(model))
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(found)


@dataclass(frozen=True)
class Rectifier:
    """Batch norm and ReLU behind a layer, as a threshold of each of the layer's outputs.

    Attributes:
        threshold: ``(outputs,)``, the output at which the ReLU begins to pass.
        rises: ``(outputs,)`` bool: whether larger outputs pass, rather than smaller ones.
    """

    threshold: Tensor
    rises: Tensor

    @classmethod
    def behind(cls, norm: nn.Module | None, outputs: int) -> "Rectifier":
        """Return the rectifier of a ReLU behind a batch norm, or directly behind the layer."""
        if norm is None:
            return cls(torch.zeros(outputs), torch.ones(outputs, dtype=torch.bool))
        assert isinstance(norm, _BatchNorm)
        mean, variance = norm.get_buffer("running_mean").double().cpu(), norm.get_buffer("running_var").double().cpu()
        scale = (variance + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach().double().cpu()
        shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double().cpu()
        # An output of scale 0 is constant: everything passes, and nothing depends on it.
        threshold = torch.where(scale == 0, -torch.inf, mean - shift / torch.where(scale == 0, 1.0, scale))
        return cls(threshold.float(), scale >= 0)

    def passed(self, values: Tensor) -> Tensor:
        """Return ``(rows, outputs)`` as far as the ReLU passes it, else the threshold."""
        return torch.where(self.rises, torch.maximum(values, self.threshold), torch.minimum(values, self.threshold))

    def targets(self, wanted: Tensor, predicted: Tensor) -> Tensor:
        """Return the auxiliary targets: `wanted` where it passes, else the blocked value nearest to `predicted`."""
        blocked = torch.where(self.passed(predicted) == predicted, self.threshold, predicted)
        return torch.where(self.passed(wanted) == wanted, wanted, blocked)


class HeldRows:
    """Inputs and wanted outputs of a reader in float32, thinned out where they would not fit in memory.

    Rows are drawn at random: neighbours are places of a map in a fixed order, so every fourth row would be the
    same mel bins of each map.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.chunks: list[Row] = []
        stride = 1
        for p, y in rows:
            generator = torch_generator("rows", len(self.chunks))
            drawn = torch.randperm(len(p), generator=generator)[::stride]
            self.chunks.append((p[drawn].float(), y[drawn].float()))
            while sum(part.numel() for chunk in self.chunks for part in chunk) * 4 > _MOST_ROW_BYTES:
                self.chunks = [(p[::2].clone(), y[::2].clone()) for p, y in self.chunks]
                stride *= 2
        self.count = sum(len(p) for p, _ in self.chunks)
        self.p_mean, self.y_mean = (
            torch.stack([chunk[part].sum(dim=0, dtype=torch.float64) for chunk in self.chunks]).sum(dim=0) / self.count
            for part in (0, 1)
        )

    def covariance(self) -> Tensor:
        """Return ``(inputs, inputs)`` float64."""
        total = torch.zeros(len(self.p_mean), len(self.p_mean), dtype=torch.float64)
        for p, _ in self.chunks:
            centred = p - self.p_mean.float()
            total += centred.T @ centred
        return total / self.count

    def cross(self, targets: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Return covariance of inputs and targets, ``(inputs, outputs)``, and the targets' mean; one for each chunk."""
        cross, total = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        middle = self.y_mean.float()
        for (p, _), y in zip(self.chunks, targets, strict=True):
            cross = cross + ((p - self.p_mean.float()).T @ (y - middle)).double()
            total = total + (y - middle).sum(dim=0, dtype=torch.float64)
        return cross / self.count, self.y_mean + total / self.count

    def relative_error(self, weights: Tensor, constant: Tensor, rectifier: Rectifier | None) -> float:
        """Return the mean over outputs of the squared error behind the ReLU, relative to the output's variance.

        Outputs of less than `_LEAST_VARIANCE` of the mean variance are taken to have that.
        """
        error = squares = total = torch.zeros((), dtype=torch.float64)
        origin = None
        for p, y in self.chunks:
            predicted = p @ weights.float() + constant.float()
            if rectifier is not None:
                predicted, y = rectifier.passed(predicted), rectifier.passed(y)
            origin = y.mean(dim=0) if origin is None else origin
            error = error + (predicted - y).square().sum(dim=0, dtype=torch.float64)
            squares = squares + (y - origin).square().sum(dim=0, dtype=torch.float64)
            total = total + (y - origin).sum(dim=0, dtype=torch.float64)
        variance = squares - total.square() / self.count
        least = _LEAST_VARIANCE * float(variance.mean())
        if least == 0:
            return 0.0 if float(error.sum()) == 0 else 1.0
        return float((error / variance.clamp_min(least)).mean())


@dataclass(frozen=True)
class RectifiedFit:
    """A fit of one reader.

    Attributes:
        weights: ``(inputs, outputs)`` float64.
        constant: ``(outputs,)`` float64.
        plain: Relative error of the unfitted weights with their best constant on the held-out rows.
        refit: That of the best fit; `weights` and `constant` are those of the smaller of the two errors.
    """

    weights: Tensor
    constant: Tensor
    plain: float
    refit: float


def fit_rectified(
    fitted: HeldRows, held_out: HeldRows, plain: Tensor, rectifier: Rectifier | None, *, ridge: float, iterations: int
) -> RectifiedFit:
    """Fit a reader's weights to rows; the held-out rows choose the ridge and the iteration.

    Args:
        fitted: Rows to fit.
        held_out: Rows by which fits are compared.
        plain: ``(inputs, outputs)`` float64, the weights that the ridge pulls to.
        rectifier: The ReLU behind the reader; None where there is none, and the outputs themselves count.
        ridge: The smallest strength of the pull that is tried, relative to each input's variance, > 0.
        iterations: Number of alternations behind the ReLU.

    Raises:
        ArithmeticError: If the covariance is not positive definite, because an entry is not finite.
    """
    covariance = fitted.covariance()
    cross, y_mean = fitted.cross(y for _, y in fitted.chunks)

    def solution(factor: Tensor, cross: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        weights = plain + torch.cholesky_solve(cross - covariance @ plain, factor)
        return weights, mean - fitted.p_mean @ weights

    def error(candidate: tuple[Tensor, Tensor]) -> float:
        return held_out.relative_error(*candidate, rectifier)

    unfitted = plain, y_mean - fitted.p_mean @ plain
    plain_error = error(unfitted)
    found = []
    for factor in _factors(covariance, ridge):
        candidate = solution(factor, cross, y_mean)
        found.append((error(candidate), factor, candidate))
    if not found:
        raise ArithmeticError("the covariance of the inputs is not positive definite")
    best_error, factor, best = min(found, key=lambda one: one[0])
    current = best
    if rectifier is not None:
        for _ in range(iterations):
            weights, constant = current[0].float(), current[1].float()
            targets = (rectifier.targets(y, p @ weights + constant) for p, y in fitted.chunks)
            current = solution(factor, *fitted.cross(targets))
            if (now := error(current)) < best_error:
                best_error, best = now, current
    weights, constant = best if best_error < plain_error else unfitted
    return RectifiedFit(weights, constant, plain_error, best_error)


def _factors(covariance: Tensor, ridge: float) -> Iterator[Tensor]:
    """Yield the Cholesky factor of the covariance with each ridge; none for a ridge below the rounding of float32."""
    variances = covariance.diagonal()
    pull = variances + (_FLOOR * float(variances.mean()) or 1.0)
    for times in _RIDGES:
        factor, failed = torch.linalg.cholesky_ex(covariance + torch.diag(ridge * times * pull))
        if not int(failed):
            yield factor
