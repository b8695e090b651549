"""Helpers of the dataset tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from syncclip.datasets import Dataset, DatasetSettings, load_dataset


def load(name: Path | str, root: Path | str | None = None, **settings: Any) -> Dataset:
    """Load a dataset by its name or path."""
    return load_dataset(DatasetSettings(name=str(name), root=None if root is None else str(root), **settings))


def sizes(dataset: Dataset) -> list[int]:
    """Number of training, validation and test images."""
    return [len(dataset.split(split)) for split in ("train", "val", "test")]
