"""Networks in ONNX Runtime on the CPU: sessions, an exported network as a tagger, and its latency."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import torch

from epanns.complexity.latency import Latency, noise, timed
from epanns.export.graph import Array
from epanns.export.network import OUTPUTS, named_inputs
from epanns.models.layers.pooling import ModelOutput
from epanns.models.tagger import Features, Stage, Tagger

_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation")  # in messages of ONNX Runtime

Inputs = Mapping[str, Array]  # name of an input -> its values, clips on the first axis


def session_of(model: onnx.ModelProto | Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Return a session of a model; ONNX Runtime logs nothing, its errors are raised.

    Args:
        model: A file or a graph.
        threads: CPU threads inside one operation; None takes torch's setting.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    with _memory_errors_raised():
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, names: Sequence[str] | None, inputs: Inputs) -> list[Array]:
    """Return the named outputs of a session, or all of them.

    Raises:
        MemoryError: If memory runs out, for which ONNX Runtime has no error class.
    """
    with _memory_errors_raised():
        return list(session.run(None if names is None else list(names), dict(inputs)))


@contextmanager
def _memory_errors_raised() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise MemoryError(f"ONNX Runtime: {_OUT_OF_MEMORY[0].lower()}") from error
        raise


def outputs_of(
    model: onnx.ModelProto | Path, batches: Iterable[Inputs], names: Sequence[str]
) -> Iterator[tuple[Array, ...]]:
    """Yield the named outputs of a model for each batch."""
    session = session_of(model)
    for batch in batches:
        yield tuple(run_session(session, names, batch))


class OnnxTagger(Tagger):
    """An exported network as a tagger for scoring: the front end in torch, the layers in ONNX Runtime.

    Args:
        network: The exported network, on the CPU; its front end computes the inputs of the graph.
        graph: Graph of that network, or a file of `export_network`.
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
        """Return the inputs of the graph."""
        return self.network.inputs_of(waveform)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """See `Tagger`."""
        return self.network.input_shapes(samples)

    def begin(self, inputs: Features, mixup_lambda: torch.Tensor | None = None) -> Features:
        """Return the inputs unchanged; the graph does the rest."""
        return inputs

    def stages(self) -> list[Stage]:
        """Return an empty list: the graph is one piece."""
        return []

    def head(self, features: Features, inputs: Features) -> ModelOutput:
        """Run the graph."""
        found = run_session(self._session, OUTPUTS, named_inputs(self.network, inputs))
        scores, logits, embedding = map(torch.from_numpy, found)
        return ModelOutput(clipwise_logits=logits, clipwise_output=scores, embedding=embedding, hidden=embedding)


def measure_onnx_latency(
    file: Path, model: Tagger, *, seconds: float, threads: int = 1, repeats: int = 15, dtype: str = "float32"
) -> Latency:
    """Time single clips through an exported file, without the front end, after a warm-up.

    Args:
        file: File of `export_network`.
        model: The exported network, on the CPU; its front end computes the input.
        seconds: Clip length; the clip is noise.
        threads: CPU threads inside one operation.
        repeats: Timed passes, after three untimed passes.
        dtype: Type of the weights, for the result.
    """
    session = session_of(file, threads=threads)
    waveform = noise(model, max(seconds, model.minimum_samples / model.spec.front_end.sample_rate))
    inputs = named_inputs(model, model.inputs_of(waveform))
    runtime = f"onnxruntime {onnxruntime.__version__} cpu, without front end"
    return timed(lambda: run_session(session, None, inputs), repeats, threads=threads, runtime=runtime, dtype=dtype)
