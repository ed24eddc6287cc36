"""Networks as files for other runtimes: ONNX in float32 and int8, compared with torch.

`epanns.export.export.export_network` does what ``epanns export`` does, for a network and data sets in Python::

    int8 = Int8(PackDataset([fold4]), PackDataset([fold5]), protocol=EvaluationProtocol(1.0, 0.5))
    report = export_network(model, folder, int8=int8)
    report["files"]["model.int8.onnx"]["bytes"], report["int8"]["evaluation"]["mAP"]["int8"]

`epanns.export.runtime.OnnxTagger(model, folder / "model.int8.onnx")` is a tagger that `predict` can score.
"""

from epanns.errors import ConfigError
from epanns.packages import install_command, is_installed


def require_onnx() -> None:
    """Raise `ConfigError` if a package of the extra ``onnx`` is not installed."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if not is_installed(name)]
    if missing:
        raise ConfigError(f"export needs {', '.join(missing)}: {install_command('onnx')}")
