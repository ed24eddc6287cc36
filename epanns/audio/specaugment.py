"""SpecAugment as PANNs use it: stripes of time and of mel bins are zeroed, drawn per clip."""

from torch import Tensor, nn


class SpecAugmenter(nn.Module):
    """Zero random stripes of a log-mel in training mode; the identity in evaluation mode.

    Defaults are PANNs' (audioset_tagging_cnn `pytorch/models.py`): two time stripes of 0-63 frames and two mel stripes
    of 0-7 bins, for 64 mel bins. On maps shorter than twice a stripe its width is limited to half the map, so that no
    clip is wiped out.

    The draws come from torch's global generator, which the training loop seeds at every step.
    """

    def __init__(self, *, time_width: int = 64, mel_width: int = 8, stripes: int = 2) -> None:
        super().__init__()
        self.time_width, self.mel_width, self.stripes = time_width, mel_width, stripes

    def forward(self, logmel: Tensor) -> Tensor:
        """Return ``(batch, 1, time, mel)`` with stripes set to 0."""
        if not self.training:
            return logmel
        from torchaudio.functional import mask_along_axis_iid

        for _ in range(self.stripes):
            logmel = mask_along_axis_iid(logmel, min(self.time_width, logmel.shape[2] // 2), 0.0, axis=2)
        for _ in range(self.stripes):
            logmel = mask_along_axis_iid(logmel, min(self.mel_width, logmel.shape[3] // 2), 0.0, axis=3)
        return logmel
