"""An exported network that is heard as any other: the front end in torch, the layers in ONNX Runtime."""

from pathlib import Path

import onnx
import torch

from epanns.export.network import OUTPUTS, named_inputs
from epanns.export.sessions import run_session, session_of
from epanns.models.pooling import ModelOutput
from epanns.models.tagger import Features, Stage, Tagger


class OnnxTagger(Tagger):
    """A tagger for `predict`, `score_windows` and whatever else hears with one; it does not learn.

    Args:
        network: What was exported, on the CPU: its front end makes the graph's inputs.
        graph: Of that network: a graph, or a file of `export_network`.
    """

    def __init__(self, network: Tagger, graph: onnx.ModelProto | Path) -> None:
        super().__init__(network.spec, network.labels)
        self.network = network
        self._session = session_of(graph)

    @property
    def minimum_samples(self) -> int:
        """See `Tagger`."""
        return self.network.minimum_samples

    def inputs_of(self, waveform: torch.Tensor) -> Features:
        """Return the graph's inputs."""
        return self.network.inputs_of(waveform)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """See `Tagger`."""
        return self.network.input_shapes(samples)

    def begin(self, inputs: Features, mixup_lambda: torch.Tensor | None = None) -> Features:
        """Return the inputs as they are; the graph does all the rest."""
        return inputs

    def stages(self) -> list[Stage]:
        """Return nothing: the graph is not divided."""
        return []

    def head(self, features: Features, inputs: Features) -> ModelOutput:
        """Run the graph."""
        found = run_session(self._session, OUTPUTS, named_inputs(self.network, inputs))
        scores, logits, embedding = map(torch.from_numpy, found)
        return ModelOutput(clipwise_logits=logits, clipwise_output=scores, embedding=embedding, hidden=embedding)
