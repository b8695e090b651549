"""A tiny toy benchmark for studies: dataset, CLIP, generator, recipe, and a synthetic dataset without generation."""

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
from tests.worlds.dataset import encoded, make_image, tiny_dataset
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
    """Build the benchmark in a folder, with the recipe `tiny.yaml`."""
    tiny_dataset(root / "dataset")
    make_clip_folder(root / "clip")
    build_generator(root / "generator")
    (root / "tiny.yaml").write_text(RECIPE.format(root=root))
    return root


def study_recipe(root: Path, *overrides: str) -> Recipe:
    """Load the recipe of a benchmark with overrides."""
    return Recipe.load(str(root / "tiny.yaml"), overrides)


def make_set(recipe: Recipe, url: str) -> str:
    """Write a recipe's synthetic dataset with painted images, without Ray and without the pipeline."""
    plan = write_plan(prepare.plan(recipe), url)
    for shard in plan.shards():
        samples = [
            Sample(entry.index, entry.label, encoded(make_image(entry.label, 50 + entry.index // 6)), entry.prompt)
            for entry in map(plan.entry, plan.shard_range(shard))
        ]
        write_shard(url, shard, samples, seconds=0.5, owner=plan.owner)
    assert storage.exists(storage.join(url, "plan.json"))
    return url


MEMBERS = ("first", "second")
"""Datasets of the tiny suite."""


def suite_world_in(root: Path) -> Path:
    """Build a benchmark with a suite of two datasets in `suite`, and a synthetic dataset of each in `sets`."""
    study_world(root)
    for name, test in zip(MEMBERS, (4, 6), strict=True):
        tiny_dataset(root / "suite" / name, train=4, test=test)
        recipe = study_recipe(root, f"dataset.name={root}/suite/{name}", "synthesis.images_per_class=4")
        make_set(recipe, f"{root}/sets/{name}")
    (root / "suite" / "suite.json").write_text(json.dumps({"datasets": MEMBERS}))
    return root


def suite_recipe(root: Path, *overrides: str) -> Recipe:
    """Load the recipe of a study of the suite."""
    return study_recipe(root, f"dataset.name={root}/suite", f"training.synthetic={root}/sets", *overrides)


def run_cells_here(runs: Sequence[CellRun], *_: object, **__: object) -> tuple[list[CellRun], StudyStatus]:
    """Call `run_cells` without Ray."""
    errors = [None if run.status == "done" else run_cell(run.spec)["error"] for run in runs]
    finished = [
        replace(run, status="failed" if error else "done", error=error) for run, error in zip(runs, errors, strict=True)
    ]
    return finished, StudyStatus.begin(cells=len(runs), done=len(runs))
