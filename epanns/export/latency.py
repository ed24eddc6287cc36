"""How long ONNX Runtime takes on this machine's CPU for one clip, from the front end's output to scores."""

from pathlib import Path

import onnxruntime

from epanns.complexity.cost import Latency
from epanns.complexity.latency import noise, timed
from epanns.export.network import named_inputs
from epanns.export.sessions import run_session, session_of
from epanns.models.tagger import Tagger


def measure_onnx_latency(
    file: Path, model: Tagger, *, seconds: float, threads: int = 1, repeats: int = 15, dtype: str = "float32"
) -> Latency:
    """Time single clips through an exported file, the front end left out, after a warm-up.

    Args:
        file: As `export_network` writes it.
        model: The network it was made of, on the CPU: its front end makes the input.
        seconds: Clip length; the clip is noise.
        threads: CPU threads inside one operation.
        repeats: Timed passes, after three untimed ones.
        dtype: What the result says the weights are.
    """
    session = session_of(file, threads=threads)
    made = model.inputs_of(noise(model, max(seconds, model.minimum_samples / model.spec.front_end.sample_rate)))
    inputs = named_inputs(model, made)
    runtime = f"onnxruntime {onnxruntime.__version__} cpu, without front end"
    return timed(lambda: run_session(session, None, inputs), repeats, threads=threads, runtime=runtime, dtype=dtype)
