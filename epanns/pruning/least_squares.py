"""Ridge regression toward given weights, from rows that are seen once: the arithmetic of `epanns.pruning.refit`."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """What regression needs of rows ``p`` and their targets ``y``, summed in float64; the rows are not kept.

    Attributes:
        rows: How many were added.
        p_sum: ``(inputs,)``.
        y_sum: ``(outputs,)``.
        gram: ``(inputs, inputs)``, sum of p p'.
        cross: ``(inputs, outputs)``, sum of p y'.
    """

    rows: int
    p_sum: Tensor
    y_sum: Tensor
    gram: Tensor
    cross: Tensor

    @classmethod
    def empty(cls, inputs: int, outputs: int) -> "Moments":
        """Return the moments of no rows."""
        shapes = ((inputs,), (outputs,), (inputs, inputs), (inputs, outputs))
        return cls(0, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def add(self, p: Tensor, y: Tensor) -> None:
        """Add rows ``(rows, inputs)`` and their targets ``(rows, outputs)``, of any floating type."""
        p, y = p.double(), y.double()
        self.rows += len(p)
        self.p_sum += p.sum(dim=0)
        self.y_sum += y.sum(dim=0)
        self.gram.addmm_(p.T, p)
        self.cross.addmm_(p.T, y)

    def constant_for(self, weights: Tensor) -> Tensor:
        """Return the ``(outputs,)`` constant that fits best beside ``(inputs, outputs)`` weights."""
        return (self.y_sum - self.p_sum @ weights) / self.rows

    def solve(self, plain: Tensor, ridge: float) -> Tensor:
        """Return the weights ``(inputs, outputs)`` float64 that explain the centred targets best.

        They minimise ``E|(y - m_y) - S'(p - m_p)|^2 + lambda |S - plain|^2`` with ``lambda = ridge * mean(diag G)``,
        G the covariance of p: a great ridge gives `plain`, a small one ordinary least squares. The moments are used up:
        the Gram matrix, the largest thing here, is centred in place.

        Args:
            plain: ``(inputs, outputs)``, the weights to stay near.
            ridge: Relative, > 0.
        """
        plain = plain.double()
        mean = self.p_sum / self.rows
        covariance = self.gram.div_(self.rows).sub_(torch.outer(mean, mean))
        wanted = self.cross / self.rows - torch.outer(mean, self.y_sum / self.rows) - covariance @ plain
        # Inputs that never vary have nothing to say: with them all zero, any positive number keeps the plain weights.
        strength = ridge * float(covariance.diagonal().mean()) or 1.0
        covariance.diagonal().add_(strength)
        factor = torch.linalg.cholesky(covariance)
        return plain + torch.cholesky_solve(wanted, factor)
