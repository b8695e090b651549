"""A tiny world for studies: dataset, CLIP, generator, a recipe of them, and a synthetic set made without drawing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from syncclip import storage
from syncclip.recipe.recipe import Recipe
from syncclip.shards.writer import Sample, write_shard
from syncclip.studies.cells import CellRun, run_cell
from syncclip.studies.status import StudyStatus
from syncclip.synthesis.plan import write_plan
from syncclip.synthetic_sets import prepare
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import CLASSES, encoded, make_image, tiny_dataset
from tests.worlds.pipelines import build_generator

RECIPE = """
name: tiny
dataset: {{name: {root}/dataset, shots: 2}}
backbone: {{name: {root}/clip}}
synthesis:
  generator: {{pipeline: {root}/generator, steps: 1, batch_size: 6}}
  shard_size: 6
training: {{epochs: 2, batch_size: 3, shuffle_window: 2}}
study:
  configurations:
    - {{method: zeroshot}}
    - {{method: ivlp, data: real}}
    - {{method: ivlp, data: both, overrides: {{training.epochs: 1, training.warmup_epochs: 0}}}}
    - {{method: syncclip, data: both, overrides: {{methods.syncclip.learning_rate: 0.01}}}}
  images_per_class: [1, 2, 4]
  seeds: [1, 2]
  resamples: 200
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
        write_shard(url, shard, samples, seconds=0.5, owner=plan.owner)
    assert storage.exists(storage.join(url, "plan.json"))
    return url


MEMBERS = ("first", "second")
"""The datasets of the tiny suite."""


def suite_world_in(root: Path) -> Path:
    """Build a world with a suite of two datasets in `suite`, and a synthetic set of each in `sets`."""
    study_world(root)
    for name, test in zip(MEMBERS, (4, 6), strict=True):
        tiny_dataset(root / "suite" / name, train=4, test=test)
        recipe = study_recipe(root, f"dataset.name={root}/suite/{name}", "synthesis.images_per_class=4")
        make_set(recipe, f"{root}/sets/{name}")
    (root / "suite" / "suite.json").write_text(json.dumps({"datasets": MEMBERS}))
    return root


def suite_recipe(root: Path, *overrides: str) -> Recipe:
    """The recipe of a study of that suite."""
    return study_recipe(root, f"dataset.name={root}/suite", f"training.synthetic={root}/sets", *overrides)


def run_cells_here(runs: Sequence[CellRun], *_: object, **__: object) -> tuple[list[CellRun], StudyStatus]:
    """`run_cells` without Ray."""
    ended = []
    for run in runs:
        answer = {"error": None} if run.status == "done" else run_cell(run.spec)
        ended.append(replace(run, status="failed" if answer["error"] else "done", error=answer["error"]))
    return ended, StudyStatus.begin(cells=len(runs), done=len(runs))
