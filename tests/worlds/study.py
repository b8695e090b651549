"""A tiny world for studies: dataset, CLIP, generator, a recipe of them, and a synthetic set made without drawing."""

from __future__ import annotations

from pathlib import Path

from syncclip import storage
from syncclip.recipe.recipe import Recipe
from syncclip.sets import prepare
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis.plan import write_plan
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import CLASSES, encoded, make_image, tiny_dataset
from tests.worlds.generator import build_generator

RECIPE = """
name: tiny
dataset: {{name: {root}/dataset, shots: 2}}
backbone: {{name: {root}/clip}}
synthesis:
  generator: {{pipeline: {root}/generator, steps: 1, batch_size: 6}}
  shard_size: 6
training: {{epochs: 2, batch: 3, window: 2}}
study:
  arms:
    - {{method: zeroshot}}
    - {{method: ivlp, data: real}}
    - {{method: ivlp, data: both, overrides: {{training.epochs: 1}}}}
    - {{method: syncclip, data: both, overrides: {{methods.syncclip.learning_rate: 0.01}}}}
  images_per_class: [1, 2, 4]
  seeds: [1, 2]
  draws: 200
  map_images: 12
storage: {{root: {root}/runs}}
"""


def study_world(root: Path) -> Path:
    """Build everything in a folder; the recipe is `tiny.yaml` there."""
    tiny_dataset(root / "dataset")
    make_clip_folder(root / "clip")
    build_generator(root / "generator")
    (root / "tiny.yaml").write_text(RECIPE.format(root=root))
    return root


def study_recipe(root: Path, *overrides: str) -> Recipe:
    """The recipe of a world, with overrides."""
    return Recipe.load(str(root / "tiny.yaml"), overrides)


def make_set(recipe: Recipe, url: str) -> str:
    """Write a set by the recipe's plan, its images painted instead of generated: no Ray, no pipeline."""
    plan = write_plan(prepare.plan(recipe), url)
    for shard in plan.shards():
        entries = map(plan.entry, plan.shard_range(shard))
        samples = [
            Sample(e.index, e.label, encoded(make_image(e.label, 50 + e.index // len(CLASSES))), e.prompt)
            for e in entries
        ]
        write_shard(url, shard, samples, seconds=0.5)
    assert storage.exists(storage.join(url, "plan.json"))
    return url
