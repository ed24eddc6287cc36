"""ONNX Runtime on the CPU: a model and its inputs to its outputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import torch

from epanns.export.graph import Array

_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation")  # in messages of ONNX Runtime

Inputs = Mapping[str, Array]  # name of an input -> its values, clips on the first axis


def session_of(model: onnx.ModelProto | Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Return a model ready to run; ONNX Runtime prints nothing, its errors are raised.

    Args:
        model: A file or a graph.
        threads: CPU threads inside one operation; None takes torch's setting.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    with _memory_errors_named():
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, names: Sequence[str] | None, inputs: Inputs) -> list[Array]:
    """Return some outputs of a session, or all of them.

    Raises:
        MemoryError: If memory runs out, for which ONNX Runtime has no error of its own.
    """
    with _memory_errors_named():
        return list(session.run(None if names is None else list(names), dict(inputs)))


@contextmanager
def _memory_errors_named() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise MemoryError(f"ONNX Runtime: {_OUT_OF_MEMORY[0].lower()}") from error
        raise


def outputs_of(
    model: onnx.ModelProto | Path, batches: Iterable[Inputs], names: Sequence[str]
) -> Iterator[tuple[Array, ...]]:
    """Yield some outputs of a model for each batch."""
    session = session_of(model)
    for batch in batches:
        yield tuple(run_session(session, names, batch))
