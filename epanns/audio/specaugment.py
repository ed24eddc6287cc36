"""SpecAugment as PANNs use it: stripes of time and of mel bins are zeroed, drawn per clip."""

import torch
from torch import Tensor, nn

from epanns.clip_random import clip_uniforms


class SpecAugmenter(nn.Module):
    """Zero random stripes of a log-mel in training mode; the identity in evaluation mode.

    Defaults are PANNs' (audioset_tagging_cnn `pytorch/models.py`): two time stripes of 0-63 frames and two mel stripes
    of 0-7 bins, for 64 mel bins. On maps shorter than twice a stripe its width is limited to half the map, so that no
    clip is wiped out.

    Inside `epanns.clip_random.clip_draws` a clip's stripes come from its own seed, on every device; outside they are
    drawn from torch's global generator.
    """

    def __init__(self, *, time_width: int = 64, mel_width: int = 8, stripes: int = 2) -> None:
        super().__init__()
        self.time_width, self.mel_width, self.stripes = time_width, mel_width, stripes

    def forward(self, logmel: Tensor) -> Tensor:
        """Return ``(batch, 1, time, mel)`` with stripes set to 0."""
        if not self.training:
            return logmel
        frames, bins = logmel.shape[2:]
        time_width, mel_width = min(self.time_width, frames // 2), min(self.mel_width, bins // 2)
        drawn = clip_uniforms(len(logmel), 4 * self.stripes)
        if drawn is None:
            drawn = _batch_uniforms(logmel, 4 * self.stripes)
        of_time, of_mel = drawn.to(logmel.device, non_blocking=True).view(len(logmel), 2, self.stripes, 2).unbind(dim=1)
        masked = _in_stripes(of_time, time_width, frames)[:, None, :, None]
        return logmel.masked_fill(masked | _in_stripes(of_mel, mel_width, bins)[:, None, None, :], 0.0)


def _batch_uniforms(logmel: Tensor, n: int) -> Tensor:
    """Return ``(batch, n)`` uniform numbers in [0, 1) from torch's global generator.

    They are drawn in the order of `torchaudio.functional.mask_along_axis_iid`, which therefore masks the same stripes
    from the same generator: a width for each clip, then a start for each clip, stripe by stripe.
    """
    drawn = [torch.rand(len(logmel), device=logmel.device, dtype=logmel.dtype) for _ in range(n)]
    return torch.stack(drawn, dim=1)


def _in_stripes(drawn: Tensor, width: int, size: int) -> Tensor:
    """Return ``(batch, size)`` bool, true in any of a clip's stripes.

    The law is `torchaudio.functional.mask_along_axis_iid`'s: a width in [0, `width`), a start in [0, `size` - width),
    both rounded down.

    Args:
        drawn: ``(batch, stripes, 2)`` uniform in [0, 1): where in its range a stripe's width is, and its start.
        width: What every stripe's width is below.
        size: Length of the axis.
    """
    widths = drawn[..., 0] * width
    starts = (drawn[..., 1] * (size - widths)).floor()[..., None]
    places = torch.arange(size, device=drawn.device)
    return ((places >= starts) & (places < starts + widths.floor()[..., None])).any(dim=1)
