"""Recovery ``grail``: the published baseline that rewrites each reader's weights by a map between channels.

From the Gram matrix G of a reader's input channels in the unpruned network (not centred, over clips and positions), the
channels H are predicted from the kept ones P by a ridge regression, and the reader's weights are multiplied by it, for
each tap of a kernel alike:

    B = (G_PP + lambda I)^-1 G_PH,    lambda = ridge * mean(diag G_PP),    W' = W B^T

Biases and batch norms stay. ``ls`` differs from it in four respects: it fits each tap by itself, fits a constant, pulls
to the plain weights instead of to zero, and reads what the pruned and so far repaired network computes.

Source: GRAIL (2026, arXiv 2602.23795), its compensation of pruned convolutions and linear layers.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import CalibrationClips, ClipSource
from epanns.pruning.ranking.importance import read_moments
from epanns.pruning.surgery import groups_and_order, remove_channels


def compensate_channels(
    pruned: Tagger, dense: Tagger, plan: PruningPlan, clips: ClipSource, *, ridge: float = 1e-3
) -> int:
    """Set the weights of every reader of a pruned layer to those of GRAIL, in place.

    The weights are made from those of `dense`, so what an earlier recovery did to the readers is lost.

    Args:
        pruned: Result of ``apply_plan(dense, plan)``.
        dense: The network it was pruned from; not touched.
        plan: In the channel numbers of `dense`.
        clips: Batches of waveforms ``(batch, samples)`` float in [-1, 1]: real sound, unlabelled, at least two clips.
        ridge: lambda relative to the mean of the diagonal of G_PP, > 0.

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
                try:
                    channel_map = compensation(
                        measured.covariance + torch.outer(measured.mean, measured.mean), kept, ridge
                    )
                except ArithmeticError as failure:
                    raise PruningError(
                        f"{reader.name} cannot be fitted ({failure}): look for bad clips or weights"
                    ) from failure
                fitted = torch.einsum("oh...,ph->op...", own.double(), channel_map.to(own.device))
                own[:, kept] = fitted.to(own)
    pruned.load_state_dict(remove_channels(whole, plan.kept_channels).state_dict())
    pruned.provenance = pruned.provenance.with_operation("recover", method="grail", clips=n_clips, ridge=ridge)
    return n_clips


def compensation(gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """Return B, ``(kept, channels)`` float64, by which the kept channels predict all channels of a Gram matrix.

    Raises:
        ArithmeticError: If the matrix is not positive definite, because an entry is not finite.
    """
    among, with_all = gram[kept][:, kept], gram[kept]
    among.diagonal().add_(ridge * float(among.diagonal().mean()) or 1.0)
    factor, failed = torch.linalg.cholesky_ex(among)
    if int(failed):
        raise ArithmeticError("the Gram matrix of the inputs is not positive definite")
    return torch.cholesky_solve(with_all, factor)
