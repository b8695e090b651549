"""Trained runs whose datasets are gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld
from tests.worlds.dataset import make_image, tiny_dataset

Train = Callable[..., jobs.Run]


@pytest.fixture
def train(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> Train:
    """Train a run as some overrides say, and remove its dataset; every test image of it stays at `images`."""

    def run(*overrides: str) -> jobs.Run:
        data = tiny_dataset(tmp_path / "data")
        values = [f"dataset.name={data}", f"training.synthetic={tiny_set}", "training.epochs=1", *overrides]
        done = jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path / "run"))
        shutil.rmtree(data)
        return done

    return run


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, two of each class of the tiny world, by name in the order of their labels."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        make_image(number // 2, 50 + number % 2).save(folder / f"{number:02}.png")
    return folder
