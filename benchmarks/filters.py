"""The effect of each filter of synthetic images on trained accuracy, in the embedded world.

    python -m benchmarks.filters OUT                       about half an hour on two quiet cores
    python -m benchmarks.filters OUT --images 1 --seeds 1 --filters blank --override training.epochs=1

One set is generated without filters, one with each filter alone, and one with all of them, from the same prompts and
seeds. IVLP and SYNC-CLIP learn from real images and each set in turn. Interrupted, the same command resumes.

The threshold of each filter with a continuous score rejects the same share (a quarter, or `--share`) of the unfiltered
images; the two duplicate filters and leakage have their defaults.
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
SCORED = {
    "clip_score": "probability",
    "clip_similarity": "minimum",
    "clip_margin": "minimum",
}
"""Filters that are cut at a share of the unfiltered images, and the setting that cuts."""
FILTERS = ("blank", *SCORED, "duplicate", "clip_duplicate", "leakage")
NONE, ALL = "none", "all"
ROUNDS = 8
"""Images of a class in a shard: duplicates are looked for within one."""


def thresholds(recipe: Recipe, url: str, share: float) -> dict[str, float]:
    """For each filter of `SCORED`, the score below which `share` of the images of the set at `url` lie."""
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
    """Set -> its filters; duplicates come last, where they are compared with what was accepted."""
    each: list[dict[str, Any]] = [
        {"name": name, **({SCORED[name]: cuts[name]} if name in SCORED else {})} for name in names
    ]
    return {**{one["name"]: [one] for one in each}, **({ALL: each} if len(each) > 1 else {})}


def generate(recipe: Recipe, filters: list[dict[str, Any]], url: str) -> None:
    """Generate a set, if it isn't complete yet, and measure it."""
    print(f"set {url}", flush=True)
    filtered = recipe.with_values({"synthesis.filters": filters, "synthesis.select": "first"})
    jobs.synth(filtered, url)
    if not storage.exists(storage.join(url, STATS_NAME)):
        measure_quality(recipe, url)


def compare(recipe: Recipe, sets: dict[str, str], seeds: list[int], out: str) -> pd.DataFrame:
    """Train both methods on real images and each set; the study's table."""
    grid = [
        {"method": method, "data": "both", "name": f"{method}-{name}", "overrides": {"training.synthetic": url}}
        for name, url in sets.items()
        for method in METHODS
    ]
    amount = recipe.synthesis.images_per_class
    values = {
        "study.configurations": grid,
        "study.images_per_class": [amount],
        "study.seeds": seeds,
        "study.map_images": 200,
    }
    reference = {"study.reference": f"{METHODS[-1]}-{list(sets)[-1]}", "training.synthetic": sets[NONE]}
    return study(recipe.with_values({**values, **reference}), out).table


def rows(sets: dict[str, str], table: pd.DataFrame) -> list[list[object]]:
    """One row per set: images generated per kept one, quality, and each method's gain over the unfiltered set."""
    found: list[list[object]] = []
    for name, url in sets.items():
        summary = read_json(storage.join(url, SUMMARY_NAME))
        quality = SetQuality.model_validate_json(storage.read_bytes(storage.join(url, STATS_NAME)))
        rejected = sum(summary["rejects"].values())
        line: list[object] = [name, f"{1 + rejected / max(1, summary['images']):.2f}", quality.accuracy]
        line.append(None if quality.similarity is None else f"{quality.similarity:.3f}")
        for method in METHODS:
            mine, plain = (
                table[table["configuration"] == f"{method}-{variant}"].set_index("seed")["hm"]
                for variant in (name, NONE)
            )
            gain = (mine - plain).dropna()
            spread = f" ± {gain.std(ddof=1) / np.sqrt(len(gain)):.1f}" if len(gain) > 1 and name != NONE else ""
            line += [float(mine.mean()), "" if name == NONE else f"{gain.mean():+.1f}{spread}"]
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder for sets and runs")
    parser.add_argument("--recipe", default="travel")
    parser.add_argument("--images", type=int, default=16, help="of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--filters", nargs="+", default=list(FILTERS), choices=FILTERS)
    parser.add_argument("--share", type=float, default=0.25, help="of unfiltered images that a threshold rejects")
    parser.add_argument("--override", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    overrides = [f"synthesis.images_per_class={arguments.images}", "synthesis.actors=2", *arguments.override]
    recipe = Recipe.load(arguments.recipe, overrides)
    classes = len(load_dataset(recipe.dataset).classnames)
    recipe = recipe.with_values({"synthesis.shard_size": classes * min(arguments.images, ROUNDS)})
    with ray_session():  # one for all sets and runs: starting it takes longer than generating a small set
        run(recipe, urls.absolute(arguments.out), arguments)


def run(recipe: Recipe, out: str, arguments: argparse.Namespace) -> None:
    """Generate what is missing, train what is missing, and print the table."""
    sets = {NONE: storage.join(out, "sets", NONE)}
    generate(recipe, [], sets[NONE])
    place = storage.join(out, "thresholds.json")
    if not storage.exists(place):
        write_json(place, thresholds(recipe, sets[NONE], arguments.share), storage.NOBODY)
    cuts = read_json(place)
    for name, filters in configurations(arguments.filters, cuts).items():
        sets[name] = storage.join(out, "sets", name)
        generate(recipe, filters, sets[name])
    table = compare(recipe, sets, arguments.seeds, storage.join(out, "study"))
    headings = ["filters", "generated per kept", "CLIP accuracy, %", "similarity"]
    headings += [part for method in METHODS for part in (f"{method} HM", "gain")]
    text.show(
        text.table(f"Filters on {recipe.dataset.name}, {arguments.images} images a class", headings, rows(sets, table))
    )
    text.show("cut at: " + ", ".join(f"{name} {value:g}" for name, value in cuts.items()))


if __name__ == "__main__":
    main()
