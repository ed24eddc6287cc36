"""What torch.compile makes of a network that learns; optional."""

import torch
from torch import Tensor, nn

from epanns.audio.short_clips import repeat_to_minimum
from epanns.errors import ConfigError
from epanns.models.pooling import ModelOutput
from epanns.models.tagger import Tagger


class CompiledNetwork(nn.Module):
    """A network whose stages are compiled; the weights are its own, not copies.

    Front end and head stay as they are: torch's compiler has no complex numbers, and the head is small. Kernels are
    made for each shape by itself, so that a run that goes on is computed by the same ones as one that never stopped.

    Attributes:
        network: The network.
    """

    def __init__(self, network: Tagger) -> None:
        super().__init__()
        self.network = network
        self._through_stages = torch.compile(network.through_stages, dynamic=False)

    def forward(self, waveform: Tensor, mixup_lambda: Tensor | None = None) -> ModelOutput:
        """Tag clips; see `Tagger.forward`. The first call of each shape takes a minute or more.

        Raises:
            ConfigError: If the compiler fails.
        """
        from torch._dynamo.exc import BackendCompilerFailed  # loads torch's compiler: seconds, for this alone

        inputs = self.network.inputs_of(repeat_to_minimum(waveform, self.network.minimum_samples))
        try:
            features = self._through_stages(inputs, mixup_lambda)
        except BackendCompilerFailed as error:
            raise ConfigError(
                f"compile=True: torch.compile fails here ({str(error).splitlines()[0]}): it needs a C++ compiler; "
                "install one, or leave it out (--compile)"
            ) from error
        return self.network.head(features, inputs)
