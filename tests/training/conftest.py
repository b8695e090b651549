from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import worlds


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset, synthetic dataset and CLIP, see `worlds.job`."""
    return worlds.make(tmp_path_factory.mktemp("world"))
