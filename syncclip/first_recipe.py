"""A first recipe for a user's pictures: look at the data, and write down what runs."""

from __future__ import annotations

import json
import statistics

import numpy as np

from syncclip import storage
from syncclip.benchmarks import Benchmark, load_benchmark
from syncclip.jobs import grounded
from syncclip.recipe import Recipe
from syncclip.settings import UserError

LOOKED_AT = 64
"""Pictures that are opened to learn their sizes, at most one a class."""

_ICONS = """\
# The embedded models, which run anywhere but know drawings of few things only. For photographs, let
# `syncclip init` write the recipe with --photographs.
extends: demo

benchmark:
{benchmark}"""

_PHOTOGRAPHS = """\
benchmark:
{benchmark}
# Fetched once from the Hugging Face hub; a GPU is wanted for both.
backbone:
  name: ViT-B-16
  pretrained: openai

synthesis:
  images_per_class: 16
  num_gpus: 1
  generator:
    pipeline: stable-diffusion-v1-5/stable-diffusion-v1-5
    steps: 25
    guidance: 7.5
    batch_size: 8
    dtype: fp16
  filters:
    - name: blank

study:
  arms:
    - {{method: zeroshot}}
    - {{method: ivlp, data: real}}
    - {{method: syncclip, data: both}}
  images_per_class: [1, 4, 16]
  seeds: [1, 2, 3]
"""


def first_recipe(source: str, root: str | None = None, photographs: bool = False) -> tuple[str, Recipe]:
    """A recipe, as commented YAML, for data that lies at `source`; and the same as it will be read.

    Args:
        source: folder, table or shards; or a benchmark's name.
        root: folder in which it is looked up.
        photographs: use a large CLIP and Stable Diffusion instead of the embedded models.

    Raises:
        UserError: the data is no benchmark, or one of the pictures looked at cannot be read.
    """
    given = grounded(Recipe.of_benchmark(source, root))
    benchmark = load_benchmark(given.benchmark)
    counts = np.bincount(benchmark.split("train").labels, minlength=len(benchmark.classnames))[benchmark.base]
    lines = [f"  name: {json.dumps(given.benchmark.name)}"]
    if given.benchmark.root is not None:
        lines.append(f"  root: {json.dumps(given.benchmark.root)}")
    lines += [
        f"  shots: {min(16, int(counts.max()))}  # base classes have {_range(counts.tolist())} pictures to train",
        f"  template: {json.dumps(benchmark.template)}",
        "  base: first  # half of the classes; or drawn, all, or a list of names",
    ]
    body = (_PHOTOGRAPHS if photographs else _ICONS).format(benchmark="\n".join(lines) + "\n")
    return _facts(benchmark) + body, given


def write_first_recipe(source: str, root: str | None = None, out: str | None = None, photographs: bool = False) -> str:
    """Write `first_recipe` to `out`, by default `<name>.yaml` here, and return where it is.

    Raises:
        UserError: see `first_recipe`; or the file is there already.
    """
    text, recipe = first_recipe(source, root, photographs)
    place = out or f"{recipe.name}.yaml"
    if storage.exists(place):
        raise UserError(f"{place} is there already; remove it, or name another file with --out FILE.yaml.")
    storage.write_bytes(place, text.encode())
    Recipe.load(place)
    return place


def _facts(benchmark: Benchmark) -> str:
    """What was found, as comment lines."""
    test = benchmark.split("test")
    shown = [int(rows[0]) for label in benchmark.candidates[:LOOKED_AT] if len(rows := test.rows_of(label))]
    sides = [min(test.image(row).size) for row in shown]
    sizes = ", ".join(f"{len(images):,} {split}" for split, images in benchmark.splits.items())
    names = ", ".join(benchmark.classnames[:4]) + (", …" if len(benchmark.classnames) > 4 else "")
    return (
        f"# Written by `syncclip init`: {len(benchmark.classnames)} classes ({names}), {len(benchmark.base)} of them\n"
        f"# base; {sizes} pictures, whose shorter side is about {statistics.median(sides):.0f} pixels.\n\n"
    )


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
