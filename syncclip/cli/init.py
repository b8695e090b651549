"""`syncclip init`: create the first recipe for a user's images."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

import numpy as np

from syncclip import storage
from syncclip.clip.prompt_text import prompt_texts, too_long
from syncclip.core.settings import UserError
from syncclip.core.text import ARTICLE, counted
from syncclip.datasets import SPLITS, Dataset, DatasetSettings, load_dataset
from syncclip.datasets.check import SMALL_SPLIT, decoded_images, problems_of, warnings_of
from syncclip.datasets.dataset import TEMPLATE
from syncclip.datasets.loading import is_dataset_name
from syncclip.embedded import context_length, load_tokenizer
from syncclip.recipe.recipe import Recipe
from syncclip.runs.resolve import with_absolute_paths
from syncclip.runtime.progress import print_message
from syncclip.studies.design import power_line

SAMPLED_IMAGES = 64
"""Maximum number of images that are opened to measure image sizes, at most one per class."""

_ICONS = """\
# The bundled models run anywhere, but recognise only simple drawings. For photographs, create
# the recipe with `syncclip init --photographs`.
extends: icons

dataset:
{dataset}
synthesis:
  actors: 2

training:
  epochs_over: real

study:
  configurations:
{configurations}
  images_per_class: [1, 4, 16]
  seeds: {seeds}
"""

_PHOTOGRAPHS = """\
dataset:
{dataset}
# CLIP and Stable Diffusion are downloaded once from the Hugging Face Hub and require a GPU.
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
{configurations}
  images_per_class: [1, 4, 16]
  seeds: {seeds}
"""

_CONFIGURATIONS = """    - {method: zeroshot}
    - {method: classmeans, data: real}
    - {method: classmeans, data: both}
    - {method: probe, data: real}
    - {method: probe, data: both}
    - {method: tip, data: real}
    - {method: tip, data: both}
    - {method: ivlp, data: real}
    - {method: ivlp, data: both}
    - {method: syncclip, data: both}
    - {method: syncclip, name: syncclip-shared, overrides: {methods.syncclip.domain_tokens: 0}}
    - {method: syncclip, name: syncclip-vectors, overrides: {methods.syncclip.class_vectors: true}}"""
"""The configurations of the gain map, so that the study includes any method that `assess` can recommend."""


def write_first_recipe(
    source: str,
    root: str | None = None,
    out: str | None = None,
    photographs: bool = False,
    overrides: Sequence[str] = (),
) -> str:
    """Write a recipe for the data at `source`, as commented YAML, and return the recipe's path or URL.

    Args:
        out: recipe file; default: `<name>.yaml` in the working directory.

    Raises:
        UserError: `source` is not a dataset, a sampled image cannot be read, a name is too long for the bundled CLIP,
            an override is not in the `dataset` section, or the recipe file already exists.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if key.partition(".")[0] != "dataset" and "=" in override:
            raise UserError(
                f"{key}: `init` only accepts settings in the `dataset` section, such as dataset.template; set others "
                "in the recipe"
            )
    recipe = with_absolute_paths(Recipe.of_dataset(source, root, overrides=overrides))
    dataset = load_dataset(recipe.dataset)
    if not photographs:
        _check_prompts(recipe, dataset)
    path = out or f"{recipe.name}.yaml"
    if storage.exists(path):
        raise UserError(f"{path} already exists; remove it, or choose another file with --out FILE.yaml")
    template = _PHOTOGRAPHS if photographs else _ICONS
    section, seeds = _section(recipe.dataset, dataset), recipe.study.seeds
    body = template.format(dataset=section, configurations=_CONFIGURATIONS, seeds=seeds)
    storage.write_bytes(path, (_facts(dataset) + body).encode())
    written = Recipe.load(path)
    classes = counted(len(dataset.classnames), "class", "classes")
    images = f"{_sizes(dataset)} images, {decoded_images(dataset):,} of them decoded"
    print_message(f"init: {classes}, of which {len(dataset.base)} are base classes; {images}")
    for warning in (*problems_of(dataset), *warnings_of(dataset)):
        print_message(f"init: warning: {warning}")
    if len(dataset.split("test")) < SMALL_SPLIT and (power := power_line([written])):
        print_message(f"init: {power}")
    if dataset.skipped:
        print_message(f"init: {dataset.skipped}")
    return path


def _section(settings: DatasetSettings, dataset: Dataset) -> str:
    """Return the `dataset` section as commented YAML: the user's values, and defaults derived from the data."""
    counts = np.bincount(dataset.split("train").labels, minlength=len(dataset.classnames))[dataset.base]
    low, high = int(counts.min()), int(counts.max())
    default = settings.template is None and dataset.template == TEMPLATE and not is_dataset_name(settings.name)
    template = TEMPLATE.replace("a {}", ARTICLE) if default else dataset.template
    user_values = settings.model_dump(mode="json", exclude_defaults=True)
    values = {
        "base": "first",
        "shots": min(16, high),
        **user_values,
        "name": settings.name,
        "template": template,
    }
    notes = {"shots": f"training images per base class: {low if low == high else f'{low} to {high}'}"}
    if "base" not in user_values:
        notes["base"] = "first half of the classes; alternatives: random (a random half), all, a list of names"
    lines = [
        f"  {key}: {json.dumps(values[key], ensure_ascii=False)}" + (f"  # {notes[key]}" if key in notes else "")
        for key in DatasetSettings.model_fields
        if key in values
    ]
    return "\n".join(lines) + "\n"


def _check_prompts(recipe: Recipe, dataset: Dataset) -> None:
    """Check that no prompt exceeds the context length of the bundled CLIP model."""
    tokenizer, context = load_tokenizer(), context_length()
    sentences = [dataset.prompt(label) for label in range(len(dataset.classnames))]
    sentences += prompt_texts(dataset.classnames, recipe.methods.ivlp.initial_words, 0)
    for sentence, encoding in zip(sentences, tokenizer.encode_batch(sentences), strict=True):
        if len(encoding) > context:
            raise UserError(
                f"{too_long(sentence, context)}; use a shorter template or class name, or --photographs for a CLIP "
                "model with a longer context"
            )


def _sizes(dataset: Dataset) -> str:
    return ", ".join(f"{len(dataset.splits[split]):,} {split}" for split in SPLITS if split in dataset.splits)


def _facts(dataset: Dataset) -> str:
    """Return comment lines with the number of classes, the number of images and the image size."""
    test = dataset.split("test")
    sample = [int(rows[0]) for label in dataset.candidates[:SAMPLED_IMAGES] if len(rows := test.rows_of(label))]
    sides = [min(test.image(row).size) for row in sample]
    names = ", ".join(dataset.classnames[:4]) + (", …" if len(dataset.classnames) > 4 else "")
    return (
        f"# Written by `syncclip init`: {len(dataset.classnames)} classes ({names}), of which\n"
        f"# {len(dataset.base)} are base classes; {_sizes(dataset)} images.\n"
        f"# The median length of the images' shorter side is {statistics.median(sides):.0f} pixels.\n\n"
    )
