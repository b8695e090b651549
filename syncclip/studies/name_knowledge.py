"""Name knowledge of a recipe's CLIP model on its dataset, measured on the few-shot samples of the base classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from syncclip.core.settings import UserError
from syncclip.datasets import Dataset
from syncclip.datasets.dataset import Ids
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
        images: number of distinct images.
        key: identifier of the measurement; see `knowledge_key`.
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
    parts = untrained_parts(recipe, cache)
    try:
        samples = few_shot_samples(recipe, parts.dataset)
    except UserError as error:
        print_message(f"the name knowledge is unknown: {error}")
        return DatasetKnowledge(key=knowledge_key(recipe))
    return encode_shots(recipe, parts, samples).knowledge(knowledge_key(recipe))


@dataclass(frozen=True)
class EncodedShots:
    """Frozen CLIP features of the few-shot images of a dataset's base classes, and of all class names.

    Attributes:
        rows: (N,) distinct rows of the training split, ascending.
        labels: (N,) class ids.
        features: (N, D) image features.
        texts: (C, D) unit-length text features of all classes.
        samples: rows of the few-shot sample for each seed.
    """

    rows: Ids
    labels: Ids
    features: Floats
    texts: Floats
    samples: Sequence[Ids]

    def knowledge(self, key: str = "") -> DatasetKnowledge:
        """Return the name knowledge, averaged over the samples."""
        positions = [np.searchsorted(self.rows, sample) for sample in self.samples]
        parts = [name_knowledge(self.features[each], self.labels[each], self.texts) for each in positions]
        zero_shot, class_means = (fmean(getattr(each, name) for each in parts) for name in ("zero_shot", "class_means"))
        return DatasetKnowledge(
            zero_shot, class_means, zero_shot / class_means if class_means else np.nan, len(self.rows), key
        )


def untrained_parts(recipe: Recipe, cache: ModelCache | None = None) -> RunParts:
    """Load the dataset and the frozen CLIP model of a recipe, with the zero-shot method."""
    return build_parts(recipe.with_values({"training.method": UNTRAINED}), cache)


def few_shot_samples(recipe: Recipe, dataset: Dataset) -> list[Ids]:
    """Return the rows of the few-shot sample for each of the study's seeds; see `Dataset.few_shot` for errors."""
    seeds = recipe.study.seeds if recipe.dataset.seed is None else [recipe.dataset.seed]
    return [dataset.few_shot(recipe.dataset.shots, seed) for seed in seeds]


def encode_shots(recipe: Recipe, parts: RunParts, samples: Sequence[Ids]) -> EncodedShots:
    """Encode the images of few-shot samples, and the prompts of all classes."""
    rows = np.unique(np.concatenate(samples))
    with deterministic(recipe.training.threads), torch.inference_mode():
        features = _encode(parts, rows, recipe.evaluation.batch_size)
        texts = parts.method.text_features().double().cpu().numpy()
    return EncodedShots(rows, parts.dataset.split("train").labels[rows], features, texts, samples)


def _encode(parts: RunParts, rows: np.ndarray, batch: int) -> Floats:
    """Return the image features (N, D) of rows of the training split."""
    images, method = parts.dataset.split("train"), parts.method
    slices = (rows[first : first + batch] for first in range(0, len(rows), batch))
    pixels = (torch.stack([parts.backbone.preprocess(images.image(row)) for row in each.tolist()]) for each in slices)
    return np.concatenate([encode(method, each, REAL, batch) for each in pixels])
