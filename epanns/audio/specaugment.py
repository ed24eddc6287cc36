"""SpecAugment as in PANNs: random stripes of time and of mel bins are set to zero, drawn per clip."""

import torch
from torch import Tensor, nn

from epanns.clip_random import clip_uniforms


class SpecAugmenter(nn.Module):
    """Zero random stripes of a log-mel in training mode; the identity in evaluation mode.

    Defaults are PANNs' (audioset_tagging_cnn `pytorch/models.py`): two time stripes of 0-63 frames and two mel stripes
    of 0-7 bins, for 64 mel bins. A stripe covers at most half of the map, so that no clip is masked completely.

    Inside `epanns.clip_random.clip_draws` a clip's stripes are drawn from its own seed, on every device; outside, from
    torch's global generator, the same stripes as torchaudio's `mask_along_axis_iid` draws.
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
        n_drawn = 4 * self.stripes
        drawn = clip_uniforms(len(logmel), n_drawn)
        if drawn is None:  # in the order of torchaudio's mask_along_axis_iid: the widths of all clips, then the starts
            device, dtype = logmel.device, logmel.dtype
            drawn = torch.stack([torch.rand(len(logmel), device=device, dtype=dtype) for _ in range(n_drawn)], dim=1)
        of_time, of_mel = drawn.to(logmel.device, non_blocking=True).view(len(logmel), 2, self.stripes, 2).unbind(dim=1)
        masked = _in_stripes(of_time, time_width, frames)[:, None, :, None]
        return logmel.masked_fill(masked | _in_stripes(of_mel, mel_width, bins)[:, None, None, :], 0.0)


def _in_stripes(drawn: Tensor, width: int, size: int) -> Tensor:
    """Return ``(batch, size)`` bool, true inside the stripes of a clip.

    The distribution is that of `torchaudio.functional.mask_along_axis_iid`: a width in [0, `width`), a start in
    [0, `size` - width), both rounded down.

    Args:
        drawn: ``(batch, stripes, 2)`` uniform in [0, 1), scaled to the width and the start of each stripe.
        width: Upper bound of the widths.
        size: Length of the axis.
    """
    widths = drawn[..., 0] * width
    starts = (drawn[..., 1] * (size - widths)).floor()[..., None]
    places = torch.arange(size, device=drawn.device)
    return ((places >= starts) & (places < starts + widths.floor()[..., None])).any(dim=1)
