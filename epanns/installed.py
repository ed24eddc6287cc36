"""Versions of what is installed: part of everything that says how it was made."""

from importlib.metadata import PackageNotFoundError, version

from epanns import __version__


def versions(*packages: str) -> dict[str, str]:
    """Return the version of epanns and of each named package; one that is not installed is left out."""
    found = {"epanns": __version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # no step needs every package
            continue
    return found
