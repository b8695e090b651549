"""`syncclip init`: a first recipe for a user's images."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

import numpy as np

from syncclip import storage
from syncclip.clip.prompt_text import prompt_texts, too_long
from syncclip.core.settings import RENAMED, UserError
from syncclip.datasets import SPLITS, Dataset, DatasetSettings, load_dataset
from syncclip.datasets.folders import skipped_files
from syncclip.embedded import context_length, load_tokenizer
from syncclip.recipe.recipe import Recipe
from syncclip.runs.resolve import with_absolute_paths
from syncclip.runtime.progress import say

LOOKED_AT = 64
"""Images that are opened to measure their sizes, at most one per class."""

_ICONS = """\
# The embedded models run anywhere, but know only drawings of a few things. For photographs, let
# `syncclip init` write the recipe with --photographs.
extends: demo

dataset:
{dataset}
study:
  configurations:
    - {{method: zeroshot}}
    - {{method: ivlp, data: real}}
    - {{method: ivlp, data: both}}
    - {{method: syncclip, data: both}}
"""

_PHOTOGRAPHS = """\
dataset:
{dataset}
# Downloaded once from the Hugging Face hub; both need a GPU.
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
  configurations:
    - {{method: zeroshot}}
    - {{method: ivlp, data: real}}
    - {{method: syncclip, data: both}}
  images_per_class: [1, 4, 16]
  seeds: [1, 2, 3]
"""


def write_first_recipe(
    source: str,
    root: str | None = None,
    out: str | None = None,
    photographs: bool = False,
    overrides: Sequence[str] = (),
) -> str:
    """Write a recipe, as commented YAML, for the data at `source`, and return its path or URL.

    Args:
        source: folder, table or shards; or a dataset's name.
        root: folder in which it is looked up.
        out: where the recipe goes; by default `<name>.yaml` here.
        photographs: use a large CLIP and Stable Diffusion instead of the embedded models.
        overrides: "dataset.key=value" for what the data does not contain, such as names of its classes.

    Raises:
        UserError: the data is no dataset, an image that is looked at cannot be read, a name is too long for the
            embedded CLIP, an override is of another section, or the recipe exists.
    """
    _check_overrides(overrides)
    given = with_absolute_paths(Recipe.of_dataset(source, root, overrides=overrides))
    dataset = load_dataset(given.dataset)
    if not photographs:
        _check_prompts(given, dataset)
    place = out or f"{given.name}.yaml"
    if storage.exists(place):
        raise UserError(f"{place} is there already; remove it, or name another file with --out FILE.yaml.")
    body = (_PHOTOGRAPHS if photographs else _ICONS).format(dataset=_section(given.dataset, dataset))
    storage.write_bytes(place, (_facts(dataset) + body).encode())
    Recipe.load(place)
    if dataset.skipped:
        say(f"init: {skipped_files(dataset.skipped)}")
    return place


def _section(given: DatasetSettings, dataset: Dataset) -> str:
    """The commented lines of section `dataset`: what was given, and defaults that the data suggests."""
    counts = np.bincount(dataset.split("train").labels, minlength=len(dataset.classnames))[dataset.base]
    low, high = int(counts.min()), int(counts.max())
    values = {"base": "first", "shots": min(16, high)}
    values |= given.model_dump(mode="json", exclude_defaults=True)
    values |= {"name": given.name, "template": dataset.template}
    notes = {"shots": f"training images of a base class: {low if low == high else f'{low} to {high}'}"}
    if "base" not in given.model_dump(exclude_defaults=True):
        notes["base"] = "half of the classes; or drawn, all, or a list of names"
    lines = [
        f"  {key}: {json.dumps(values[key], ensure_ascii=False)}" + (f"  # {notes[key]}" if key in notes else "")
        for key in DatasetSettings.model_fields
        if key in values
    ]
    return "\n".join(lines) + "\n"


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        section = key.partition(".")[0]
        if RENAMED.get(section, section) != "dataset" and "=" in override:
            raise UserError(
                f"{key}: a first recipe takes values of `dataset` alone, such as dataset.template; write others into "
                "the recipe, or after the command that runs it."
            )


def _check_prompts(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse now what the embedded CLIP would refuse only after the synthesis."""
    tokenizer, context = load_tokenizer(), context_length()
    sentences = [dataset.prompt(label) for label in range(len(dataset.classnames))]
    sentences += prompt_texts(dataset.classnames, recipe.methods.ivlp.initial_words, 0)
    for sentence, encoding in zip(sentences, tokenizer.encode_batch(sentences), strict=True):
        if len(encoding) > context:
            raise UserError(
                f"{too_long(sentence, context)}; use a shorter template or a shorter class name, or let "
                "--photographs choose a CLIP that reads more."
            )


def _facts(dataset: Dataset) -> str:
    """What was found, as comment lines."""
    test = dataset.split("test")
    shown = [int(rows[0]) for label in dataset.candidates[:LOOKED_AT] if len(rows := test.rows_of(label))]
    sides = [min(test.image(row).size) for row in shown]
    sizes = ", ".join(f"{len(dataset.splits[split]):,} {split}" for split in SPLITS if split in dataset.splits)
    names = ", ".join(dataset.classnames[:4]) + (", …" if len(dataset.classnames) > 4 else "")
    return (
        f"# Written by `syncclip init`: {len(dataset.classnames)} classes ({names}), {len(dataset.base)} of them\n"
        f"# base; {sizes} images, whose shorter side is about {statistics.median(sides):.0f} pixels.\n\n"
    )
