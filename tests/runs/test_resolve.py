"""Resolution of a recipe to a run and its synthetic dataset."""

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


def recipe_of(tiny: TinyWorld, synthetic: str) -> Recipe:
    return Recipe.load(tiny.recipe, [f"training.synthetic={synthetic}"])


def test_unknown_dataset_is_reported_before_the_missing_synthetic_dataset(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny.recipe, ["dataset.name=icns", f"storage.root={tmp_path}"])
    with pytest.raises(UserError, match="unknown dataset 'icns'; did you mean 'icons'"):
        resolve.resolve_run(recipe)


def test_synthetic_dataset_is_found_in_the_recipe_or_in_out(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    below = shutil.copytree(tiny_set, tmp_path / "synthetic")
    recipe = Recipe.load(tiny.recipe)
    assert resolve.find_synthetic(recipe, tiny_set) == tiny_set
    assert resolve.find_synthetic(recipe, str(tmp_path)) == str(below)
    assert resolve.find_synthetic(recipe_of(tiny, tiny_set), str(tmp_path)) == tiny_set


def test_hash_of_a_run_depends_on_the_plan_but_not_the_path(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    moved = str(shutil.copytree(tiny_set, tmp_path / "moved"))
    other = Path(shutil.copytree(tiny_set, tmp_path / "other"))
    text = storage.read_bytes(str(other / "plan.json"))
    assert b'"seed": 0' in text
    rewrite(other / "plan.json", text.replace(b'"seed": 0', b'"seed": 1'))
    plan = read_plan(str(other))
    assert plan is not None
    (other / "index.json").unlink()
    for marker in other.glob("*_stats.json"):
        stats = ShardStats.model_validate_json(storage.read_verified(str(marker)))
        storage.write_document(str(marker), stats.model_copy(update={"owner": plan.owner}), plan.owner)
    hashes = [resolve.resolve_run(recipe_of(tiny, url))[1].recipe_hash for url in (tiny_set, moved, str(other))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_relative_paths_are_made_absolute(tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.load(tiny.recipe, ["training.data=real"])
    dataset, backbone = Path(recipe.dataset.name), Path(recipe.backbone.name)
    monkeypatch.chdir(dataset.parent)
    resolved, _ = resolve.resolve_run(recipe.with_values({"dataset.name": dataset.name}), str(tmp_path))
    assert resolved.dataset.name == str(dataset)
    monkeypatch.chdir(backbone.parent)
    for name in (backbone.name, f"local-dir:{backbone.name}"):
        resolved, _ = resolve.resolve_run(recipe.with_values({"backbone.name": name}), str(tmp_path))
        assert resolved.backbone.name == str(backbone)
    shipped, _ = resolve.resolve_run(Recipe.load("icons", ["training.data=real"]), str(tmp_path))
    assert (shipped.dataset.name, shipped.backbone.name) == ("icons", "icons")


def test_folder_with_the_name_of_a_pretrained_tag_is_no_file_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    (tmp_path / "weights.pt").touch()
    for tag, expected in (("openai", "openai"), ("weights.pt", f"{tmp_path}/weights.pt")):
        recipe = Recipe.of_defaults(["backbone.name=ViT-B-16", f"backbone.pretrained={tag}"])
        assert resolve.with_absolute_paths(recipe).backbone.pretrained == expected
