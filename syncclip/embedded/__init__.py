"""Data and weights of the embedded world `icons`: they travel with the package, so that it runs without a network."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """The folder of an embedded part: "icons/clip", "icons/generator" or "icons/dataset"."""
    return Path(__file__).parent / name
