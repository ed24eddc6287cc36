"""The packages that export needs, which come with an extra."""

from epanns.errors import ConfigError
from epanns.packages import install_command, is_installed

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_onnx() -> None:
    """Raise `ConfigError` if a package of the extra is missing."""
    missing = [name for name in PACKAGES if not is_installed(name)]
    if missing:
        raise ConfigError(f"export needs {', '.join(missing)}: {install_command('onnx')}")
