"""Runs that share a cache, and the jobs of workers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syncclip import jobs, storage
from syncclip.clip.backbone import load_backbone
from syncclip.core.session import Session
from syncclip.core.settings import UserError
from syncclip.methods.frozen import FrozenTexts
from syncclip.recipe.recipe import Recipe
from syncclip.runs import build, resolve
from syncclip.runs.build import ModelCache
from syncclip.runs.resolve import resolve_run
from syncclip.shards.index import index_set
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from tests.conftest import TinyWorld

FILES = ("prompts.safetensors", "metrics.jsonl", "results.json")
TEST_IMAGES = 24


def recipe_of(tiny: TinyWorld, *overrides: str) -> Recipe:
    return Recipe.load(tiny.recipe, ["training.epochs=1", *overrides])


def real_recipe(tiny: TinyWorld, method: str, seed: int = 1) -> Recipe:
    return recipe_of(tiny, "training.data=real", f"training.method={method}", f"training.seed={seed}")


def read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_runs_with_a_shared_cache_are_bit_identical_to_separate_runs(tiny: TinyWorld, tmp_path: Path) -> None:
    cache = ModelCache(keep_bytes=1 << 20)
    for method, seed in (("zeroshot", 1), ("kgcoop", 1), ("kgcoop", 2), ("ivlp", 1)):
        name = f"{method}{seed}"
        jobs.run_here(real_recipe(tiny, method, seed), str(tmp_path / "separate" / name))
        jobs.run_here(real_recipe(tiny, method, seed), str(tmp_path / "shared" / name), cache=cache)
        assert read(tmp_path / "separate" / name) == read(tmp_path / "shared" / name), name
    assert cache.loads == {"dataset": 1, "sets": 0, "clip": 1, "image": TEST_IMAGES}


def add_shard(url: str) -> None:
    image = ShardSet(url).read(0)
    write_shard(url, 9, [Sample(99, 0, image, "")], owner=storage.read_owner(f"{url}/plan.json"))


def test_synthetic_dataset_is_opened_again_after_a_change(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    cache, url = ModelCache(), str(shutil.copytree(tiny_set, tmp_path / "set"))
    for seed, opened in ((1, 1), (2, 1), (3, 2)):
        recipe = recipe_of(tiny, f"training.synthetic={url}", "training.method=ivlp", f"training.seed={seed}")
        if seed == 3:
            add_shard(url)
        jobs.run_here(recipe, str(tmp_path / "separate" / str(seed)))
        jobs.run_here(recipe, str(tmp_path / "shared" / str(seed)), cache=cache)
        assert read(tmp_path / "separate" / str(seed)) == read(tmp_path / "shared" / str(seed))
        assert cache.loads["sets"] == opened


def test_synthetic_dataset_is_opened_again_after_a_change_since_its_runs_were_resolved(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    cache, url = ModelCache(), str(shutil.copytree(tiny_set, tmp_path / "set"))
    index_set(url)
    recipe = recipe_of(tiny, f"training.synthetic={url}", "training.method=ivlp")
    runs = [resolve_run(recipe.with_values({"training.seed": seed}), str(tmp_path / str(seed))) for seed in (1, 2, 3)]
    for run, opened in zip(runs, (1, 1, 2), strict=True):
        if opened == 2:
            add_shard(url)
        jobs.run_resolved(*run, cache)
        assert cache.loads["sets"] == opened


def test_texts_are_encoded_once_for_all_methods_of_a_clip(tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = FrozenTexts._encode
    monkeypatch.setattr(FrozenTexts, "_encode", lambda self, text: encoded.append(text) or encode(self, text))
    cache = ModelCache()
    features = []
    for seed in (1, 2):
        method = build.build_parts(real_recipe(tiny, "kgcoop", seed), cache).method
        features += [module() for module in method.modules() if isinstance(module, FrozenTexts)]
    assert len(features) == 2 and features[0] is features[1]
    assert len(encoded) == len(set(encoded)) > 0


def test_images_beyond_the_memory_limit_are_decoded_each_time(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = real_recipe(tiny, "zeroshot")
    cache = ModelCache(keep_bytes=10 * 3 * load_backbone(recipe.backbone).image_size ** 2)
    for name in "ab":
        jobs.run_here(recipe, str(tmp_path / name), cache=cache)
    assert cache.loads["image"] == TEST_IMAGES + (TEST_IMAGES - 10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["training.method=ivlp", "methods.ivlp.visual_depth=9"], "visual_depth is 9, .* use at most 3"),
        (["training.method=coop", "methods.coop.text_tokens=20"], "use fewer text tokens"),
        (
            ["training.method=ivlp", "methods.ivlp.text_tokens=3", "methods.ivlp.initial_words=a photo"],
            "add words, set initial_words to ''",
        ),
    ],
)
def test_prompts_that_do_not_fit_the_towers_are_a_user_error(
    tiny: TinyWorld, tmp_path: Path, values: list[str], message: str
) -> None:
    run = resolve.resolve_run(recipe_of(tiny, "training.data=real", *values), str(tmp_path))
    with pytest.raises(UserError, match=message):
        build.build_on_worker(resolve.to_spec(*run), rank=0, world_size=1)


def test_selection_by_validation_requires_validation_images(tiny: TinyWorld, tmp_path: Path) -> None:
    dataset = shutil.copytree(tiny.dataset, tmp_path / "shapes")
    shutil.rmtree(dataset / "val")
    description = json.loads((dataset / "dataset.json").read_text())
    del description["splits"]["val"]
    (dataset / "dataset.json").write_text(json.dumps(description))
    values = [f"dataset.name={dataset}", "training.data=real", "training.keep_best=validation"]
    run = resolve.resolve_run(recipe_of(tiny, *values), str(tmp_path / "run"))
    with pytest.raises(UserError, match="has no split 'val'; available splits: train, test"):
        build.build_job(*run)


def test_custom_method_that_is_missing_on_a_worker_is_a_user_error(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, "training.data=real").model_dump(mode="json")
    spec = {"recipe": recipe, "url": str(tmp_path), "name": "run", "hash": "0", "inputs": {}}
    assert build.build_on_worker(spec, rank=0, world_size=1).run.recipe_text == Recipe.model_validate(recipe).to_yaml()
    recipe["training"]["method"] = "elsewhere.mine:Mine"
    with (
        Session(trusted={"elsewhere.mine:Mine": False}),
        pytest.raises(UserError, match=r"on a worker: training\.method: no method 'elsewhere\.mine:Mine'"),
    ):
        build.build_on_worker(spec, rank=0, world_size=1)


def test_upper_bound_trains_on_real_images_of_all_classes(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, "training.method=ivlp", "training.data=all_real")
    parts = build.build_parts(recipe)
    stream = build.build_stream(recipe, parts)
    assert stream is not None and stream.real is not None and stream.synthetic is None
    labels = {int(label) for step in range(stream.steps_per_epoch) for label in stream.order.ids(0, step).labels}
    assert labels == set(range(len(parts.dataset.classnames))) > set(parts.dataset.base)
    assert parts.method.base == len(parts.dataset.classnames)
    results = jobs.run_here(recipe, str(tmp_path)).results
    zeroshot = jobs.run_here(recipe_of(tiny, "training.method=zeroshot"), str(tmp_path / "zeroshot")).results
    assert results["counts"] == zeroshot["counts"]
    assert results["counts"]["novel"] and results["seen"] is None


def test_results_contain_the_share_of_synthetic_images_used(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    values = [f"training.synthetic={tiny_set}", "training.method=ivlp", "training.epochs_over=synthetic"]
    runs = [jobs.run_here(recipe_of(tiny, *values, f"training.epochs={n}"), str(tmp_path / str(n))) for n in (1, 12)]
    few, many = (run.results["seen"] for run in runs)
    assert 0 < few < many <= 1
