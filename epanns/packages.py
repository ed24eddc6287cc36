"""The packages that epanns requires, its optional extras, and which versions are installed."""

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from epanns import __version__

# Distribution -> module, in the order of install_requires in setup.cfg.
CORE = {
    "torch": "torch",
    "torchaudio": "torchaudio",
    "torch-pruning": "torch_pruning",
    "numpy": "numpy",
    "h5py": "h5py",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "click": "click",
    "tqdm": "tqdm",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "safetensors": "safetensors",
    "matplotlib": "matplotlib",
}


@dataclass(frozen=True)
class Extra:
    """An optional extra.

    Attributes:
        packages: Distribution -> module.
        adds: The features it adds.
    """

    packages: dict[str, str]
    adds: str


EXTRAS = {
    "av": Extra({"av": "av"}, "sound files that libsndfile cannot open: m4a, mp4, webm, mkv, wma"),
    "onnx": Extra(
        {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"},
        "epanns export: ONNX files in float32 and int8",
    ),
    "mlflow": Extra(
        {"mlflow-skinny": "mlflow", "sqlalchemy": "sqlalchemy", "alembic": "alembic"},
        "epanns sweep --track mlflow: a run for each trial in MLflow",
    ),
    "ray": Extra({"ray": "ray"}, "epanns sweep --runner ray: trials on a cluster"),
    "report": Extra({"pandas": "pandas"}, "epanns.read_records: run records as a pandas table"),
    "search": Extra({"optuna": "optuna"}, "epanns search: the front of cost and score"),
    "tensorboard": Extra({"tensorboard": "tensorboard"}, "--tensorboard: learning curves while a network trains"),
    "tflite": Extra({"ai-edge-litert": "ai_edge_litert"}, "the test that compares YAMNet with a TFLite conversion"),
    "wandb": Extra({"wandb": "wandb"}, "epanns sweep --track wandb: a run for each trial in Weights & Biases"),
}


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install -e ".[{extra}]" in the source folder of epanns'


def is_installed(module: str) -> bool:
    """Return whether a module is installed, without importing it."""
    return importlib.util.find_spec(module) is not None


@functools.cache
def can_import(module: str) -> bool:
    """Import a module and return whether that succeeds."""
    try:
        importlib.import_module(module)
    except Exception:  # a broken installation can raise anything
        return False
    return True


def versions(*packages: str) -> dict[str, str]:
    """Return the version of epanns and of each named package that is installed."""
    found = {"epanns": __version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # no command needs every package
            continue
    return found
