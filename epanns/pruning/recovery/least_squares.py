"""Ridge regression toward given weights, from rows that are seen once: the arithmetic of `recovery.refit`."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_PANEL = 1024  # columns of the Gram matrix at a time


@dataclass
class Moments:
    """What regression needs of rows ``p`` and their targets ``y``, summed in float64; the rows are not kept.

    Sums are of differences from the means of the first rows: little variance about a great mean is not lost.

    Attributes:
        rows: How many were added.
        p_origin: ``(inputs,)``, what is subtracted from p.
        y_origin: ``(outputs,)``, what is subtracted from y.
        p_sum: ``(inputs,)``.
        y_sum: ``(outputs,)``.
        gram: ``(inputs, inputs)``, sum of p p'; symmetric, so only the panels on and below its diagonal are summed.
        cross: ``(inputs, outputs)``, sum of p y'.
    """

    rows: int
    p_origin: Tensor
    y_origin: Tensor
    p_sum: Tensor
    y_sum: Tensor
    gram: Tensor
    cross: Tensor

    @classmethod
    def empty(cls, inputs: int, outputs: int) -> "Moments":
        """Return the moments of no rows."""
        shapes = ((inputs,), (outputs,), (inputs,), (outputs,), (inputs, inputs), (inputs, outputs))
        return cls(0, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def add(self, p: Tensor, y: Tensor) -> None:
        """Add rows ``(rows, inputs)`` and their targets ``(rows, outputs)``, of any floating type."""
        p, y = p.double(), y.double()
        if not self.rows:
            self.p_origin, self.y_origin = p.mean(dim=0), y.mean(dim=0)
        p, y = p - self.p_origin, y - self.y_origin
        self.rows += len(p)
        self.p_sum += p.sum(dim=0)
        self.y_sum += y.sum(dim=0)
        for start, end in self._panels():
            self.gram[start:end, :end].addmm_(p[:, start:end].T, p[:, :end])
        self.cross.addmm_(p.T, y)

    def constant_for(self, weights: Tensor) -> Tensor:
        """Return the ``(outputs,)`` constant that fits best beside ``(inputs, outputs)`` weights."""
        p_mean, y_mean = self.p_origin + self.p_sum / self.rows, self.y_origin + self.y_sum / self.rows
        return y_mean - p_mean @ weights

    def solve(self, plain: Tensor, ridge: float) -> Tensor:
        """Return the weights ``(inputs, outputs)`` float64 that explain the centred targets best.

        They minimise ``E|(y - m_y) - S'(p - m_p)|^2 + lambda |S - plain|^2`` with ``lambda = ridge * mean(diag G)``,
        G the covariance of p: a great ridge gives `plain`, a small one ordinary least squares. The moments are used up:
        the Gram matrix, the largest thing here, is centred and factorised in its place, and so is the other matrix.

        Args:
            plain: ``(inputs, outputs)``, the weights to stay near.
            ridge: Relative, > 0.

        Raises:
            ArithmeticError: If the covariance is not positive definite, because something in it is not finite.
        """
        plain = plain.double()
        mean, y_mean = self.p_sum / self.rows, self.y_sum / self.rows
        covariance = self._covariance(mean)
        wanted = self.cross.div_(self.rows).addr_(mean, y_mean, alpha=-1).addmm_(covariance, plain, alpha=-1)
        # Inputs that never vary have nothing to say: with them all zero, any positive number keeps the plain weights.
        strength = ridge * float(covariance.diagonal().mean()) or 1.0
        covariance.diagonal().add_(strength)
        columns = covariance.T  # LAPACK's order of memory: seen so, the factor takes the place of the matrix
        failed = torch.zeros((), dtype=torch.int32)
        torch.linalg.cholesky_ex(columns, upper=True, out=(columns, failed))
        if int(failed):
            raise ArithmeticError("the covariance of the inputs is not positive definite")
        half = torch.linalg.solve_triangular(covariance, wanted, upper=False)
        fitted: Tensor = torch.linalg.solve_triangular(columns, half, upper=True)
        return fitted.add_(plain)

    def _panels(self) -> Iterator[tuple[int, int]]:
        inputs = len(self.p_sum)
        return ((start, min(inputs, start + _PANEL)) for start in range(0, inputs, _PANEL))

    def _covariance(self, mean: Tensor) -> Tensor:
        """Turn the Gram matrix into the covariance matrix, in place."""
        gram = self.gram
        for start, end in self._panels():
            gram[start:end, :end].div_(self.rows).addr_(mean[start:end], mean[:end], alpha=-1)
            gram[:start, start:end] = gram[start:end, :start].T
        return gram
