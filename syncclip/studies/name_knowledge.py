"""Name knowledge of a recipe's CLIP model on its dataset, measured on the few-shot samples of the base classes."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from syncclip.core.settings import UserError
from syncclip.evaluation.metrics import Number
from syncclip.evaluation.name_knowledge import name_knowledge
from syncclip.recipe.recipe import Recipe, digest
from syncclip.recipe.study import UNTRAINED
from syncclip.runs.build import ModelCache, RunParts, build_parts
from syncclip.runtime.determinism import deterministic
from syncclip.runtime.progress import print_message
from syncclip.stream.mixed import REAL
from syncclip.studies.features import encode
from syncclip.studies.statistics.bootstrap import Floats


@dataclass(frozen=True)
class DatasetKnowledge:
    """Name knowledge on one dataset, averaged over few-shot samples; NaN if a class has fewer than two images.

    Attributes:
        zero_shot: accuracy on base classes in per cent.
        class_means: leave-one-out accuracy of the class means in per cent.
        ratio: `zero_shot / class_means`.
        images: number of different images.
        key: identifies the measurement; see `knowledge_key`.
    """

    zero_shot: Number = np.nan
    class_means: Number = np.nan
    ratio: Number = np.nan
    images: int = 0
    key: str = ""


def knowledge_key(recipe: Recipe) -> str:
    """Return a hash of all settings that determine the name knowledge."""
    parts = recipe.backbone, recipe.dataset, recipe.methods.of(UNTRAINED)
    return digest([*(part.model_dump(mode="json") for part in parts), recipe.study.seeds])


def measure(recipe: Recipe, cache: ModelCache | None = None) -> DatasetKnowledge:
    """Measure the name knowledge of the recipe's CLIP model on its dataset, without test images.

    The images are the few-shot samples that the study's seeds select; the prompts are those of the zero-shot method.
    The result is unknown if the dataset has no training images.
    """
    parts = build_parts(recipe.with_values({"training.method": UNTRAINED}), cache)
    dataset = parts.dataset
    seeds = recipe.study.seeds if recipe.dataset.seed is None else [recipe.dataset.seed]
    try:
        samples = [dataset.few_shot(recipe.dataset.shots, seed) for seed in seeds]
    except UserError as error:
        print_message(f"the name knowledge is unknown: {error}")
        return DatasetKnowledge(key=knowledge_key(recipe))
    rows = np.unique(np.concatenate(samples))
    labels = dataset.split("train").labels
    with deterministic(recipe.training.threads), torch.inference_mode():
        features = _encode(parts, rows, recipe.evaluation.batch_size)
        text = parts.method.text_features(slice(len(dataset.base))).double().cpu().numpy()
    parts_of_seeds = [
        name_knowledge(features[np.searchsorted(rows, sample)], labels[sample], text) for sample in samples
    ]
    zero_shot = fmean(each.zero_shot for each in parts_of_seeds)
    class_means = fmean(each.class_means for each in parts_of_seeds)
    ratio = zero_shot / class_means if class_means else np.nan
    return DatasetKnowledge(zero_shot, class_means, ratio, len(rows), knowledge_key(recipe))


def _encode(parts: RunParts, rows: np.ndarray, batch: int) -> Floats:
    """Return the image features (N, D) of rows of the training split."""
    images, method = parts.dataset.split("train"), parts.method
    slices = (rows[first : first + batch] for first in range(0, len(rows), batch))
    pixels = (torch.stack([parts.backbone.preprocess(images.image(row)) for row in each.tolist()]) for each in slices)
    return np.concatenate([encode(method, each, REAL, batch) for each in pixels])
