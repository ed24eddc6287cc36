"""The packages that epanns needs, those that only some uses need, and how to install them."""

import functools
import importlib
import importlib.util
from dataclasses import dataclass

# Distribution -> module, in the order of install_requires in setup.cfg; tests/test_optional.py compares the two.
CORE = {
    "torch": "torch",
    "torchaudio": "torchaudio",
    "torch-pruning": "torch_pruning",
    "numpy": "numpy",
    "h5py": "h5py",
    "scikit-learn": "sklearn",
    "click": "click",
    "tqdm": "tqdm",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "safetensors": "safetensors",
    "matplotlib": "matplotlib",
}


@dataclass(frozen=True)
class Extra:
    """Packages that one use needs.

    Attributes:
        packages: Distribution -> module.
        adds: What they make possible.
    """

    packages: dict[str, str]
    adds: str


EXTRAS = {
    "av": Extra({"av": "av"}, "sound files that libsndfile cannot open: m4a, mp4, webm, mkv, wma"),
    "onnx": Extra(
        {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"},
        "epanns export: ONNX files in float32 and int8",
    ),
    "tensorboard": Extra({"tensorboard": "tensorboard"}, "--tensorboard: learning curves while a network trains"),
    "tflite": Extra({"ai-edge-litert": "ai_edge_litert"}, "the test that compares YAMNet with a TFLite conversion"),
}


def install_command(extra: str) -> str:
    """Return what to type to get an extra."""
    return f'pip install -e ".[{extra}]" in the source folder of epanns'


def is_installed(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


@functools.cache
def can_import(module: str) -> bool:
    """Whether a module is installed and its import succeeds; it is imported."""
    try:
        importlib.import_module(module)
    except Exception:  # whatever a broken installation raises
        return False
    return True
