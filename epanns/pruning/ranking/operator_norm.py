"""The operator-norm criterion of E-PANNs' authors, as their released code computes it, and without its defect.

For every input channel c the filters' kernels are the rows of a matrix A_c, ``(filters, taps)``, centred over the
filters. Its leading right singular vector v_c is the kernel by which the filters differ most; a filter is scored by how
much of it it holds, over all channels.

Source: Singh and Plumbley, arXiv 2304.02319; `Proposed_pruning.py` of Efficient_CNNs_passive_filter_pruning.
"""

import torch
from torch import Tensor

from epanns.pruning.ranking.layer_filters import LayerFilters


def opnorm(filters: LayerFilters) -> Tensor:
    """Operator norm as released: ``(sum_c <A_c[j], sign(u_c[0]) v_c>) ** 2``, divided by the layer's maximum.

    u_c is the leading left singular vector. Its sign is taken from filter 0, whose terms therefore all add up while
    those of other filters cancel: whichever filter comes first is ranked near the top, and another order of the same
    filters gives another ranking. Kept to reproduce published results; use `opnorm_invariant` otherwise.
    """
    projections = _projections(filters.weight)
    signs = torch.where(projections[:, :1] < 0, -1.0, 1.0).to(projections.dtype)
    scores = (projections * signs).sum(dim=0).square()
    return scores / scores.max().clamp(min=torch.finfo(scores.dtype).tiny)


def opnorm_invariant(filters: LayerFilters) -> Tensor:
    """Operator norm without signs: ``sum_c <A_c[j], v_c> ** 2``, whatever the order of the filters."""
    return _projections(filters.weight).square().sum(dim=0)


def _projections(weight: Tensor) -> Tensor:
    """Return ``(in_channels, filters)``: <A_c[j], v_c>, each row up to its sign.

    v_c comes from the small ``(taps, taps)`` matrix A_c' A_c, whose leading eigenvector it is.
    """
    kernels = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2)
    centred = (kernels - kernels.mean(dim=0)).transpose(0, 1)  # (in_channels, filters, taps)
    directions = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1:]  # eigenvalues ascend
    projections: Tensor = (centred @ directions).squeeze(2)
    return projections
