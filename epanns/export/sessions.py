"""ONNX Runtime on the CPU: a model and its inputs to its outputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch

from epanns.export.graph import Array

Inputs = Mapping[str, Array]  # name of an input -> its values, clips on the first axis


def session_of(model: onnx.ModelProto | Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Return a model ready to run; what ONNX Runtime has to say about it is left out, but for errors.

    Args:
        model: A file or a graph.
        threads: CPU threads inside one operation; None takes torch's setting.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def outputs_of(
    model: onnx.ModelProto | Path, batches: Iterable[Inputs], names: Sequence[str]
) -> Iterator[tuple[Array, ...]]:
    """Yield some outputs of a model for each batch."""
    session = session_of(model)
    for batch in batches:
        yield tuple(session.run(list(names), dict(batch)))
