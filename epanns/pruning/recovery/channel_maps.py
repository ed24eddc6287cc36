"""Recoveries ``grail`` and ``fold``: published baselines that rewrite readers' weights by a map between channels.

From the Gram matrix G of a reader's input channels in the unpruned network (not centred, over clips and positions), all
channels H are predicted from the kept ones P, and the reader's weights are multiplied by the map, for each tap of a
kernel alike: ``W' = W B^T``. Biases and batch norms stay.

- ``grail``: a ridge regression, ``B = (G_PP + lambda I)^-1 G_PH`` with ``lambda = ridge * mean(diag G_PP)`` (GRAIL,
  2026, arXiv 2602.23795, its compensation of pruned convolutions and linear layers).
- ``fold``: a removed channel j is merged into the one kept channel m that explains most of it, ``G_jm^2 / G_mm``, with
  the factor ``G_jm / G_mm``; kept channels stay (neuron merging, Kim et al. 2020, arXiv 2010.13160, and model folding,
  Wang et al. 2025, arXiv 2502.10216, which compare weights instead of outputs and, in folding, keep the mean filter of
  a cluster, not one of its filters).

``ls`` differs from both: it fits each tap by itself, fits a constant, pulls to the plain weights instead of to zero,
and reads what the pruned and so far repaired network computes.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import CalibrationClips, ClipSource
from epanns.pruning.ranking.importance import read_moments
from epanns.pruning.surgery import groups_and_order, remove_channels


def compensate_channels(
    pruned: Tagger, dense: Tagger, plan: PruningPlan, clips: ClipSource, method: str = "grail", *, ridge: float = 1e-3
) -> int:
    """Multiply the weights of every reader of a pruned layer by the map of its channels, in place.

    The weights are made from those of `dense`, so what an earlier recovery did to the readers is lost.

    Args:
        pruned: Result of ``apply_plan(dense, plan)``.
        dense: The network it was pruned from; not touched.
        plan: In the channel numbers of `dense`.
        clips: Batches of waveforms ``(batch, samples)`` float in [-1, 1]: real sound, unlabelled, at least two clips.
        method: ``grail`` or ``fold``.
        ridge: Of ``grail``: lambda relative to the mean of the diagonal of G_PP, > 0.

    Returns:
        Number of clips.

    Raises:
        PruningError: If the clips cannot be used, or a value is not finite; `pruned` is left as it was.
    """
    groups = {layer: group for layer, group in groups_and_order(dense)[0].items() if layer in plan.pruned_layers}
    n_clips = 0

    def counted() -> Iterator[Tensor]:
        nonlocal n_clips
        for waveform in CalibrationClips.of(clips).waveforms(dense):
            n_clips += len(waveform)
            yield waveform

    moments = read_moments(dense, groups, counted())
    whole = copy.deepcopy(dense)
    with torch.no_grad():
        for layer, group in groups.items():
            kept = torch.tensor(plan.kept_channels[layer])
            for reader, measured in zip(group.readers, moments[layer], strict=True):
                weight = whole.get_submodule(reader.name).get_parameter("weight")
                own = weight[:, reader.offset : reader.offset + group.width]
                if method == "fold":
                    channel_map = nearest_map(measured.power, kept)
                else:
                    channel_map = ridge_map(measured.power, kept, ridge)
                fitted = torch.einsum("oh...,ph->op...", own.double(), channel_map.to(own.device))
                own[:, kept] = fitted.to(own)
    pruned.load_state_dict(remove_channels(whole, plan.kept_channels).state_dict())
    settings = {"ridge": ridge} if method == "grail" else {}
    pruned.provenance = pruned.provenance.with_operation("recover", method=method, clips=n_clips, **settings)
    return n_clips


def ridge_map(gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """Return B of ``grail``, ``(kept, channels)`` float64, from a finite Gram matrix and the kept channels' numbers."""
    among, with_all = gram[kept][:, kept], gram[kept]
    among.diagonal().add_(ridge * float(among.diagonal().mean()) or 1.0)
    return torch.cholesky_solve(with_all, torch.linalg.cholesky(among))


def nearest_map(gram: Tensor, kept: Tensor) -> Tensor:
    """Return B of ``fold``, ``(kept, channels)`` float64: one entry for each channel, of kept channels a 1.

    Channels that are always zero have no entry.
    """
    power = gram.diagonal()[kept]
    factors = torch.where(power[:, None] > 0, gram[kept] / power[:, None], 0.0)
    nearest = (factors * gram[kept]).argmax(dim=0)
    found = torch.zeros_like(factors)
    channels = torch.arange(gram.shape[1])
    found[nearest, channels] = factors[nearest, channels]
    found[:, kept] = torch.eye(len(kept), dtype=found.dtype)
    return found
