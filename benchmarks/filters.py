"""Effect of each filter on the accuracy after training, on the toy benchmark.

    python -m benchmarks.filters OUT                       about half an hour on two idle cores
    python -m benchmarks.filters OUT --images 1 --seeds 1 --filters blank --override training.epochs=1

Synthetic datasets are generated from the same prompts and seeds without filters, with each filter alone, and with all
filters. IVLP and SYNC-CLIP are trained on real images and each of these datasets. Run the command again to resume.

The threshold of each filter with a continuous score is set so that it rejects the same fraction of the unfiltered
images (`--share`, a quarter by default). The duplicate filters and the leakage filter use their default settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from syncclip import jobs, storage
from syncclip.core import text
from syncclip.datasets import load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.runtime.ray_session import ray_session
from syncclip.shards.reader import ShardSet
from syncclip.storage import urls
from syncclip.studies.outputs import read_json, write_json
from syncclip.studies.run import study
from syncclip.synthesis.filters import FilterBatch, build_filters
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.synthesis.summary import SUMMARY_NAME
from syncclip.synthetic_sets.quality import STATS_NAME, SetQuality, measure_quality

METHODS = ("ivlp", "syncclip")
SCORED = {"clip_score": "probability", "clip_similarity": "minimum", "clip_margin": "minimum"}
"""Filters with a continuous score -> the setting for their threshold."""
FILTERS = ("blank", *SCORED, "duplicate", "clip_duplicate", "leakage")
NONE, ALL = "none", "all"
ROUNDS = 8
"""Number of images of each class per shard; duplicates are only detected within a shard."""


def thresholds(recipe: Recipe, url: str, share: float) -> dict[str, float]:
    """Return filter in `SCORED` -> quantile `share` of its scores on the dataset at `url`."""
    dataset, images = load_dataset(recipe.dataset), ShardSet(url)
    loose = [{"name": name, setting: 0.5, "backbone": recipe.backbone} for name, setting in SCORED.items()]
    settings = SynthesisSettings.model_validate({"filters": loose}).filters
    prompts = [dataset.prompt(label) for label in range(len(dataset.classnames))]
    scorers = build_filters(settings, prompts)
    scores: dict[str, list[float]] = {scorer.name: [] for scorer in scorers}
    for start in range(0, len(images), 64):
        rows = range(start, min(start + 64, len(images)))
        labels = [int(images.labels[row]) for row in rows]
        batch = FilterBatch([images.image(row) for row in rows], labels, [images.text(row) for row in rows], rows)
        for scorer in scorers:
            scores[scorer.name] += scorer.score(batch).scores
    return {name: round(float(np.quantile(values, share)), 4) for name, values in scores.items()}


def configurations(names: Sequence[str], cuts: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
    """Return dataset name -> filters; duplicate filters come last, so that they compare only accepted images."""
    filters: list[dict[str, Any]] = [
        {"name": name, **({SCORED[name]: cuts[name]} if name in SCORED else {})} for name in names
    ]
    return {**{settings["name"]: [settings] for settings in filters}, **({ALL: filters} if len(filters) > 1 else {})}


def generate(recipe: Recipe, filters: list[dict[str, Any]], url: str) -> None:
    """Generate a dataset, unless it is complete, and measure its quality."""
    print(f"dataset {url}", flush=True)
    filtered = recipe.with_values({"synthesis.filters": filters, "synthesis.select": "first"})
    jobs.synth(filtered, url)
    if not storage.exists(storage.join(url, STATS_NAME)):
        measure_quality(recipe, url)


def compare(recipe: Recipe, sets: dict[str, str], seeds: list[int], out: str) -> pd.DataFrame:
    """Train both methods on real images and each dataset, and return the study's table."""
    grid = [
        {"method": method, "data": "both", "name": f"{method}-{name}", "overrides": {"training.synthetic": url}}
        for name, url in sets.items()
        for method in METHODS
    ]
    values = {
        "study.configurations": grid,
        "study.images_per_class": [recipe.synthesis.images_per_class],
        "study.seeds": seeds,
        "study.map_images": 200,
        "study.reference": f"{METHODS[-1]}-{list(sets)[-1]}",
        "training.synthetic": sets[NONE],
    }
    return study(recipe.with_values(values), out).table


def rows(sets: dict[str, str], table: pd.DataFrame) -> list[list[object]]:
    """Return a row per dataset: images generated per kept image, quality, and each method's gain over no filters."""
    lines: list[list[object]] = []
    for name, url in sets.items():
        summary = read_json(storage.join(url, SUMMARY_NAME))
        quality = SetQuality.model_validate_json(storage.read_bytes(storage.join(url, STATS_NAME)))
        rejected = sum(summary["rejects"].values())
        line: list[object] = [name, f"{1 + rejected / max(1, summary['images']):.2f}", quality.accuracy]
        line.append(None if quality.similarity is None else f"{quality.similarity:.3f}")
        for method in METHODS:
            accuracy, unfiltered = (
                table[table["configuration"] == f"{method}-{variant}"].set_index("seed")["hm"]
                for variant in (name, NONE)
            )
            gain = (accuracy - unfiltered).dropna()
            error = f" ± {gain.std(ddof=1) / np.sqrt(len(gain)):.1f}" if len(gain) > 1 else ""
            line += [float(accuracy.mean()), "" if name == NONE else f"{gain.mean():+.1f}{error}"]
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder for datasets and runs")
    parser.add_argument("--recipe", default="travel")
    parser.add_argument("--images", type=int, default=16, help="images per class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--filters", nargs="+", default=list(FILTERS), choices=FILTERS)
    parser.add_argument("--share", type=float, default=0.25, help="fraction of unfiltered images to reject")
    parser.add_argument("--override", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    overrides = [f"synthesis.images_per_class={arguments.images}", "synthesis.actors=2", *arguments.override]
    recipe = Recipe.load(arguments.recipe, overrides)
    classes = len(load_dataset(recipe.dataset).classnames)
    recipe = recipe.with_values({"synthesis.shard_size": classes * min(arguments.images, ROUNDS)})
    with ray_session():  # a single session, because starting Ray is slow
        run(recipe, urls.absolute(arguments.out), arguments)


def run(recipe: Recipe, out: str, arguments: argparse.Namespace) -> None:
    """Generate missing datasets, execute missing training runs, and print the table."""
    sets = {NONE: storage.join(out, "sets", NONE)}
    generate(recipe, [], sets[NONE])
    file = storage.join(out, "thresholds.json")
    if not storage.exists(file):
        write_json(file, thresholds(recipe, sets[NONE], arguments.share), storage.NOBODY)
    cuts = read_json(file)
    for name, filters in configurations(arguments.filters, cuts).items():
        sets[name] = storage.join(out, "sets", name)
        generate(recipe, filters, sets[name])
    table = compare(recipe, sets, arguments.seeds, storage.join(out, "study"))
    headings = ["filters", "generated per kept", "CLIP accuracy, %", "similarity"]
    headings += [part for method in METHODS for part in (f"{method} HM", "gain")]
    title = f"Filters on {recipe.dataset.name}, {arguments.images} images per class"
    text.show(text.table(title, headings, rows(sets, table)))
    text.show("thresholds: " + ", ".join(f"{name} {value:g}" for name, value in cuts.items()))


if __name__ == "__main__":
    main()
