"""What is loaded once for runs that follow each other, and that it changes no bit of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syncclip import jobs, storage
from syncclip.clip.backbone import load_backbone
from syncclip.core.session import Session
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.runs import build, resolve
from syncclip.runs.build import ModelCache
from syncclip.runs.resolve import resolve_run
from syncclip.shards.index import index_set
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from tests.conftest import TinyWorld

KINDS = ("prompts.safetensors", "metrics.jsonl", "results.json")
TEST_IMAGES = 24


def recipe_of(tiny: TinyWorld, method: str, seed: int) -> Recipe:
    values = ["training.data=real", "training.epochs=1", f"training.method={method}", f"training.seed={seed}"]
    return Recipe.load(tiny.recipe, values)


def bits(folder: Path) -> dict[str, bytes]:
    return {kind: (folder / kind).read_bytes() for kind in KINDS}


def test_runs_that_share_frozen_parts_have_the_bits_of_runs_alone(tiny: TinyWorld, tmp_path: Path) -> None:
    cache = ModelCache(keep_bytes=1 << 20)
    for method, seed in (("zeroshot", 1), ("kgcoop", 1), ("kgcoop", 2), ("ivlp", 1)):
        name = f"{method}{seed}"
        jobs.run_here(recipe_of(tiny, method, seed), str(tmp_path / "alone" / name))
        jobs.run_here(recipe_of(tiny, method, seed), str(tmp_path / "shared" / name), cache=cache)
        assert bits(tmp_path / "alone" / name) == bits(tmp_path / "shared" / name), name
    assert cache.loads == {"dataset": 1, "sets": 0, "clip": 1, "image": TEST_IMAGES}


def test_a_set_is_opened_once_for_runs_on_it_and_anew_when_it_has_changed(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    cache, place = ModelCache(), str(shutil.copytree(tiny_set, tmp_path / "set"))
    for seed, opened in ((1, 1), (2, 1), (3, 2)):
        values = [f"training.synthetic={place}", "training.epochs=1", "training.method=ivlp", f"training.seed={seed}"]
        recipe = Recipe.load(tiny.recipe, values)
        if seed == 3:
            write_shard(
                place, 9, [Sample(99, 0, (ShardSet(place)).read(0), "")], owner=storage.read_owner(f"{place}/plan.json")
            )
        jobs.run_here(recipe, str(tmp_path / "alone" / str(seed)))
        jobs.run_here(recipe, str(tmp_path / "shared" / str(seed)), cache=cache)
        assert bits(tmp_path / "alone" / str(seed)) == bits(tmp_path / "shared" / str(seed))
        assert cache.loads["sets"] == opened


def test_a_set_that_has_changed_since_its_runs_were_resolved_is_opened_anew(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    cache, place = ModelCache(), str(shutil.copytree(tiny_set, tmp_path / "set"))
    index_set(place)
    values = [f"training.synthetic={place}", "training.epochs=1", "training.method=ivlp"]
    recipes = [Recipe.load(tiny.recipe, [*values, f"training.seed={seed}"]) for seed in (1, 2, 3)]
    resolved = [resolve_run(recipe, str(tmp_path / str(seed))) for seed, recipe in enumerate(recipes)]
    for run, opened in zip(resolved, (1, 1, 2), strict=True):
        if opened == 2:
            write_shard(
                place,
                9,
                [Sample(99, 0, ShardSet(place, resolved=True).read(0), "")],
                owner=storage.read_owner(f"{place}/plan.json"),
            )
        jobs.run_resolved(*run, cache)
        assert cache.loads["sets"] == opened


def test_sentences_are_encoded_once_for_all_methods_of_a_clip(tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from syncclip.methods.frozen import FrozenTexts
    from syncclip.runs.build import build_parts

    encoded: list[str] = []
    honest = FrozenTexts._encode
    monkeypatch.setattr(FrozenTexts, "_encode", lambda self, text: encoded.append(text) or honest(self, text))
    cache = ModelCache()
    features = []
    for seed in (1, 2):
        parts = build_parts(recipe_of(tiny, "kgcoop", seed), cache)
        features += [one() for one in parts.method.modules() if isinstance(one, FrozenTexts)]
    assert len(features) == 2 and features[0] is features[1]
    assert len(encoded) == len(set(encoded)) > 0


def test_images_beyond_the_room_are_decoded_each_time(tiny: TinyWorld, tmp_path: Path) -> None:
    side = load_backbone(recipe_of(tiny, "zeroshot", 1).backbone).image_size
    cache = ModelCache(keep_bytes=10 * 3 * side * side)
    for name in "ab":
        jobs.run_here(recipe_of(tiny, "zeroshot", 1), str(tmp_path / name), cache=cache)
    assert cache.loads["image"] == TEST_IMAGES + (TEST_IMAGES - 10)


def here(tiny: TinyWorld, synthetic: str | None, *overrides: str) -> Recipe:
    named = [f"training.synthetic={synthetic}"] if synthetic else []
    return Recipe.load(tiny.recipe, [*named, *overrides])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["training.method=ivlp", "methods.ivlp.visual_depth=9"], "visual_depth: .* 9 blocks .* use at most 3"),
        (["training.method=coop", "methods.coop.text_tokens=20"], "use fewer text tokens"),
        (
            ["training.method=ivlp", "methods.ivlp.text_tokens=3", "methods.ivlp.initial_words=a photo"],
            "use more words",
        ),
    ],
)
def test_prompts_that_the_towers_cannot_take_are_a_users_mistake_on_a_worker(
    tiny: TinyWorld, tmp_path: Path, values: list[str], reason: str
) -> None:
    recipe, folder = resolve.resolve_run(here(tiny, None, "training.data=real", *values), str(tmp_path))
    spec = {"recipe": recipe.model_dump(mode="json"), "url": folder.url, "name": folder.name, "hash": "0"}
    with pytest.raises(UserError, match=reason):
        build.build_on_worker(spec, rank=0, world_size=1)


def test_the_best_by_validation_needs_validation_images(tiny: TinyWorld, tmp_path: Path) -> None:
    dataset = shutil.copytree(tiny.dataset, tmp_path / "shapes")
    shutil.rmtree(dataset / "val")
    described = json.loads((dataset / "dataset.json").read_text())
    del described["splits"]["val"]
    (dataset / "dataset.json").write_text(json.dumps(described))
    values = [f"dataset.name={dataset}", "training.data=real", "training.keep_best=validation"]
    recipe, folder = resolve.resolve_run(here(tiny, None, *values), str(tmp_path / "run"))
    with pytest.raises(UserError, match="has no split 'val'; it has train, test"):
        build.build_job(recipe, folder)


def test_a_method_that_a_worker_does_not_find_is_told_in_one_sentence(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = here(tiny, None, "training.data=real").model_dump(mode="json")
    spec = {"recipe": recipe, "url": str(tmp_path), "name": "run", "hash": "0"}
    assert build.build_on_worker(spec, rank=0, world_size=1).run.recipe_text == Recipe.model_validate(recipe).to_yaml()
    recipe["training"]["method"] = "elsewhere.mine:Mine"
    with (
        Session(trusted={"elsewhere.mine:Mine": False}),
        pytest.raises(UserError, match=r"on a worker: training\.method: no method 'elsewhere\.mine:Mine'"),
    ):
        build.build_on_worker(spec, rank=0, world_size=1)


def test_an_oracle_learns_from_real_images_of_all_classes_and_is_tested_like_the_rest(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    recipe = Recipe.load(tiny.recipe, ["training.method=ivlp", "training.data=all_real", "training.epochs=1"])
    parts = build.build_parts(recipe)
    stream = build.build_stream(recipe, parts)
    assert stream is not None and stream.real is not None and stream.synthetic is None
    labels = {int(label) for step in range(stream.steps_per_epoch) for label in stream.ids(0, step).labels}
    assert labels == set(range(len(parts.dataset.classnames))) > set(parts.dataset.base)
    assert parts.method.base == len(parts.dataset.classnames)
    jobs.run_here(recipe, str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    untrained = Recipe.load(tiny.recipe, ["training.method=zeroshot"])
    jobs.run_here(untrained, str(tmp_path / "zeroshot"))
    assert results["counts"] == json.loads((tmp_path / "zeroshot" / "results.json").read_text())["counts"]
    assert results["counts"]["novel"] and results["seen"] is None


def test_a_run_tells_which_share_of_the_synthetic_images_it_has_seen(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    recipe = here(tiny, tiny_set, "training.method=ivlp", "training.data=both", "training.epochs_over=synthetic")
    jobs.run_here(recipe.with_values({"training.epochs": 1}), str(tmp_path / "one"))
    jobs.run_here(recipe.with_values({"training.epochs": 12}), str(tmp_path / "many"))
    one, many = (json.loads((tmp_path / name / "results.json").read_text())["seen"] for name in ("one", "many"))
    assert 0 < one < many <= 1
