"""The optimizer."""

import torch
from torch import nn

from epanns.errors import ConfigError
from epanns.training.config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Adam:
    """Return PANNs' Adam (betas .9 and .999, eps 1e-8, no weight decay, AMSGrad) over what may learn.

    Build it after pruning: an optimizer made before holds parameters that are no longer the network's.

    Raises:
        ConfigError: If no parameter may learn.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        raise ConfigError("no parameter of the model may learn: every requires_grad is False")
    return torch.optim.Adam(learning, lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8, amsgrad=True)
