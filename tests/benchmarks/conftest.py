"""Miniatures of the literature's data sets, built once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from syncclip.benchmarks.literature import DATASETS
from tests.worlds.literature import Miniature, miniature


@dataclass(frozen=True)
class Miniatures:
    """The root folder of all data sets, and what each of them must show."""

    root: Path
    of: dict[str, Miniature]


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Miniatures:
    """All fifteen below one root; tests only read it."""
    root = tmp_path_factory.mktemp("literature")
    return Miniatures(root, {name: miniature(root, name) for name in DATASETS})
