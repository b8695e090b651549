"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata


def package_version(package: str) -> str:
    """Return the version of an installed package, or "not installed" for a package that runs from a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
