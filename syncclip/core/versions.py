"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata


def package_version(package: str) -> str:
    """The version of a package; "not installed" of one that is run from a working folder."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
