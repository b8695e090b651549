"""Which run a recipe stands for, and which set it learns from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.runs import resolve
from syncclip.shards.markers import ShardStats
from syncclip.synthesis.plan import read_plan
from tests.conftest import TinyWorld
from tests.worlds.rewritten import rewrite


def here(tiny: TinyWorld, synthetic: str | None, *overrides: str) -> Recipe:
    named = [f"training.synthetic={synthetic}"] if synthetic else []
    return Recipe.load(tiny.recipe, [*named, *overrides])


def test_an_unknown_dataset_is_told_before_the_missing_set(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny.recipe, ["dataset.name=icns", f"storage.root={tmp_path}"])
    with pytest.raises(UserError, match="unknown dataset 'icns'; did you mean 'icons'"):
        resolve.resolve_run(recipe)


def test_the_set_is_found_in_out_or_below_it_or_where_it_is_named(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    below = shutil.copytree(tiny_set, tmp_path / "synthetic")
    recipe = Recipe.load(tiny.recipe)
    assert resolve.find_synthetic(recipe, tiny_set) == tiny_set
    assert resolve.find_synthetic(recipe, str(tmp_path)) == str(below)
    assert resolve.find_synthetic(here(tiny, tiny_set), str(tmp_path)) == tiny_set


def test_the_hash_of_a_run_follows_what_the_set_shows_not_where_it_lies(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    moved = str(shutil.copytree(tiny_set, tmp_path / "moved"))
    other = Path(shutil.copytree(tiny_set, tmp_path / "other"))
    text = storage.read_bytes(str(other / "plan.json"))
    assert b'"seed": 0' in text
    rewrite(other / "plan.json", text.replace(b'"seed": 0', b'"seed": 1'))
    seed = read_plan(str(other))
    assert seed is not None
    (other / "index.json").unlink()
    for marker in other.glob("*_stats.json"):
        stats = ShardStats.model_validate_json(storage.read_verified(str(marker)))
        storage.write_document(str(marker), stats.model_copy(update={"owner": seed.owner}), seed.owner)
    hashes = [resolve.resolve_run(here(tiny, url))[1].recipe_hash for url in (tiny_set, moved, str(other))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_folders_that_the_recipe_names_are_found_from_any_working_folder(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.load(tiny.recipe, ["training.data=real"])
    place = Path(recipe.dataset.name)
    monkeypatch.chdir(place.parent)
    settled, _ = resolve.resolve_run(recipe.with_values({"dataset.name": place.name}), str(tmp_path))
    assert settled.dataset.name == str(place)
    backbone = Path(recipe.backbone.name)
    monkeypatch.chdir(backbone.parent)
    for name in (backbone.name, f"local-dir:{backbone.name}"):
        settled, _ = resolve.resolve_run(recipe.with_values({"backbone.name": name}), str(tmp_path))
        assert settled.backbone.name == str(backbone)
    shipped, _ = resolve.resolve_run(Recipe.load("icons", ["training.data=real"]), str(tmp_path))
    assert (shipped.dataset.name, shipped.backbone.name) == ("icons", "icons")
