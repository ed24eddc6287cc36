"""Packages that only some uses need, each installed by an extra of this one."""

import functools
import importlib
import importlib.util


def install_command(extra: str) -> str:
    """Return what to type to get an extra."""
    return f'pip install -e ".[{extra}]" in the source folder of epanns'


def is_installed(module: str) -> bool:
    """Whether a module can be imported; nothing is."""
    return importlib.util.find_spec(module) is not None


@functools.cache
def can_import(module: str) -> bool:
    """Whether a module is installed and its import succeeds; it is imported."""
    try:
        importlib.import_module(module)
    except Exception:  # whatever a broken installation raises
        return False
    return True
