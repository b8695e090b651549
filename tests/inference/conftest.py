"""Trained runs whose datasets were removed, and test images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld
from tests.worlds.dataset import make_image, tiny_dataset

Train = Callable[..., jobs.Run]
RUNS = pytest.StashKey[dict[tuple[str, ...], jobs.Run]]()
"""Overrides -> the run trained with them in this session."""


@pytest.fixture
def train(
    tiny: TinyWorld,
    tiny_set: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Train:
    """Return a copy of a run trained with some overrides; each is trained once per session, and its dataset removed."""
    runs = pytestconfig.stash.setdefault(RUNS, {})

    def run(*overrides: str) -> jobs.Run:
        if overrides not in runs:
            folder = tmp_path_factory.mktemp("trained")
            data = tiny_dataset(folder / "data")
            values = [f"dataset.name={data}", f"training.synthetic={tiny_set}", "training.epochs=1", *overrides]
            runs[overrides] = jobs.run_here(Recipe.load(tiny.recipe, values), str(folder / "run"))
            shutil.rmtree(data)
        return replace(runs[overrides], url=str(shutil.copytree(runs[overrides].url, tmp_path / "run")))

    return run


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two images of each of the six classes, named in the order of their labels."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        make_image(number // 2, 50 + number % 2).save(folder / f"{number:02}.png")
    return folder
