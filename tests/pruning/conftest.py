from collections.abc import Callable

import pytest
import torch

from epanns.models.families.cnn_2d import Cnn
from epanns.models.spec import ModelSpec
from tests.builders import narrow_spec


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
    return torch.randn(2, 1, 70, narrow_spec().front_end.mel_bins, generator=torch.Generator().manual_seed(1))
