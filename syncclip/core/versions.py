"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata


def package_version(package: str) -> str:
    """Return the version of a package; "not installed" if it runs from a working folder."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
