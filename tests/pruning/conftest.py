from collections.abc import Callable

import pytest
import torch

from epanns.audio.frontend import FrontEndSpec
from epanns.models.cnn import Cnn
from epanns.models.spec import ModelSpec, conv_widths

FRONT_END = FrontEndSpec(sample_rate=8_000, window_size=256, hop_size=80, mel_bins=32, fmin=50, fmax=4_000)


def narrow_spec(**changes: object) -> ModelSpec:
    """Cnn14 in small: twelve convolutions, five poolings, every width different from block to block."""
    values = {
        "name": "narrow",
        "family": "cnn",
        "front_end": FRONT_END,
        "widths": conv_widths(4, 6, 8, 10, 12, 14),
        "embedding_size": 9,
        "num_classes": 5,
    }
    return ModelSpec(**(values | changes))


@pytest.fixture
def spec() -> ModelSpec:
    return narrow_spec()


@pytest.fixture
def build() -> Callable[..., Cnn]:
    """Return a builder of narrow networks whose batch norms do something to every channel."""

    def build(**changes: object) -> Cnn:
        torch.manual_seed(0)
        model = Cnn(narrow_spec(**changes)).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
        return model

    return build


@pytest.fixture
def model(build: Callable[..., Cnn]) -> Cnn:
    return build()


@pytest.fixture
def logmel() -> torch.Tensor:
    return torch.randn(2, 1, 70, FRONT_END.mel_bins, generator=torch.Generator().manual_seed(1))
