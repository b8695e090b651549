"""Quality of a synthetic dataset, measured with frozen CLIP: accuracy, diversity, domain shift and near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from syncclip import storage
from syncclip.core.balance import balanced_rows
from syncclip.core.settings import Settings, UserError
from syncclip.datasets import load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.synthesis.filters import FrozenClip
from syncclip.synthesis.filters.clip import encode_set
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.prompts.settings import PromptCoverage, coverage
from syncclip.synthetic_sets.imported import read_set
from syncclip.synthetic_sets.shift import Floats, Labels, measure

STATS_NAME = "stats.json"
MAX_IMAGES = 20_000
"""Maximum number of images to measure per domain, balanced across classes."""
DUPLICATE = 0.99
"""Minimum cosine similarity between near-duplicates."""
PAIRS = 20
"""Maximum number of near-duplicate pairs to list."""
BLOCK = 2048
DIGITS = 5


class ClassQuality(Settings):
    """Quality of one class."""

    name: str
    images: int
    """Number of measured images."""
    accuracy: float | None
    """Zero-shot accuracy with all classes as candidates, in percent, or None without images."""
    similarity: float | None
    """Mean pairwise cosine similarity, or None for fewer than two images."""
    shift: float | None
    """1 - cosine similarity between the real and the synthetic centroid, or None if either centroid is missing."""


class ShiftNumbers(Settings):
    """Summary of a `shift.Shift`; see that class for the fields."""

    centroid_distance: float
    relative_distance: float | None
    overlap: float
    frechet: float


class SetQuality(Settings):
    """Content of a dataset's `stats.json`."""

    format: int = 1
    backbone: str
    """Name of the CLIP model."""
    images: int
    """Number of images in the dataset."""
    measured: int
    """Number of measured images."""
    accuracy: float
    """Zero-shot accuracy with all classes as candidates, in percent."""
    similarity: float | None
    """Mean pairwise cosine similarity within a class, averaged over classes; lower values mean more diverse images."""
    real_similarity: float | None
    """Mean pairwise cosine similarity of the real images, as a baseline."""
    shift: ShiftNumbers | None
    """Domain shift from the real to the synthetic images, or None without real images."""
    near_duplicates: int
    """Number of images with a cosine similarity of at least `duplicate` to an earlier image of any class."""
    duplicate: float
    pairs: tuple[tuple[int, int], ...]
    """Pairs of sample indices: the first near-duplicates, each with its nearest earlier image."""
    prompts: PromptCoverage | None
    """Prompt coverage, or None for an imported dataset."""
    classes: tuple[ClassQuality, ...]


class Features(NamedTuple):
    """CLIP features of images as (N, D) unit vectors, with (N,) class ids and (N,) rows."""

    features: Floats
    labels: Labels
    rows: Labels


def set_quality(url: str, clip: FrozenClip, real: ImageSet | None, max_images: int = MAX_IMAGES) -> SetQuality:
    """Measure a dataset with `clip`, which has one prompt per class; write the result to the dataset's `stats.json`.

    Raises:
        UserError: the dataset does not exist, or all its images are unreadable.
    """
    plan = read_set(url)
    if plan is None:
        fix = f"no synthetic dataset found; generate one with `syncclip synth RECIPE --out {url}`"
        raise storage.wrong_folder(url, "a synthetic dataset", fix)
    images = ShardSet(url)
    synthetic = _encode(images, clip, max_images, "synthetic")
    if not len(synthetic.rows):
        raise UserError(f"{url}: all images are unreadable; run `syncclip shards verify {url}` for details")
    reference = None if real is None else _encode(real, clip, max_images, "real")
    shift = numbers = None
    if reference is not None and np.intersect1d(synthetic.labels, reference.labels).size:
        shift = measure(reference.features, reference.labels, synthetic.features, synthetic.labels)
        numbers = ShiftNumbers(**{name: _rounded(getattr(shift, name)) for name in ShiftNumbers.model_fields})
    correct = (synthetic.features @ clip.classes.double().cpu().numpy().T).argmax(axis=1) == synthetic.labels
    classes = []
    for label, name in enumerate(plan.classnames):
        rows = synthetic.labels == label
        quality_of_class = ClassQuality(
            name=name,
            images=int(rows.sum()),
            accuracy=_rounded(100 * float(correct[rows].mean())) if rows.any() else None,
            similarity=_rounded(similarity(synthetic.features[rows])),
            shift=None if shift is None else _rounded(shift.per_class.get(label)),
        )
        classes.append(quality_of_class)
    count, pairs = near_duplicates(synthetic.features)
    index = images.samples.index[synthetic.rows]
    real_similarity = prompts = None
    if reference is not None:
        labels = np.unique(reference.labels)
        real_similarity = _mean([similarity(reference.features[reference.labels == label]) for label in labels])
    if isinstance(plan, Plan):
        prompts = coverage(plan.prompts, plan.template, plan.classnames, plan.images_per_class)
    quality = SetQuality(
        backbone=clip.backbone.name,
        images=len(images),
        measured=len(synthetic.rows),
        accuracy=round(100 * float(correct.mean()), DIGITS),
        similarity=_mean([quality.similarity for quality in classes]),
        real_similarity=real_similarity,
        shift=numbers,
        near_duplicates=count,
        duplicate=DUPLICATE,
        pairs=tuple((int(index[later]), int(index[earlier])) for later, earlier in pairs),
        prompts=prompts,
        classes=tuple(classes),
    )
    storage.write_document(storage.join(url, STATS_NAME), quality, plan.owner)
    storage.require(url, [STATS_NAME])
    storage.write_contents(url, plan.owner)
    return quality


def similarity(features: Floats) -> float | None:
    """Return the mean pairwise cosine similarity of (n, D) unit vectors, or None for fewer than two vectors."""
    count = len(features)
    return None if count < 2 else float(((features.sum(axis=0) ** 2).sum() - count) / (count * (count - 1)))


def near_duplicates(features: Floats) -> tuple[int, list[tuple[int, int]]]:
    """Return the number of (N, D) unit vectors with an earlier near-duplicate, and the first `PAIRS` such pairs.

    All pairs are compared in blocks, which takes seconds for 20,000 images.
    """
    small = features.astype(np.float32)
    count = 0
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(small), BLOCK):
        block = small[start : start + BLOCK]
        cosines = block @ small[: start + len(block)].T
        cosines[np.arange(cosines.shape[1]) >= np.arange(start, start + len(block))[:, None]] = -1  # not earlier
        duplicates = np.flatnonzero(cosines.max(axis=1) >= DUPLICATE)
        count += len(duplicates)
        pairs += [(start + int(row), int(cosines[row].argmax())) for row in duplicates[: PAIRS - len(pairs)]]
    return count, pairs


def _encode(images: ImageSet, clip: FrozenClip, max_images: int, name: str) -> Features:
    """Compute the CLIP features of a dataset's readable images."""
    labels = np.asarray(images.labels)
    kept, features = encode_set(images, clip, balanced_rows(labels, max_images).tolist(), f"quality ({name})")
    return Features(features.double().numpy(), labels[kept], np.array(kept, np.int64))


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return _rounded(float(np.mean(defined))) if defined else None


def _rounded(value: float | None) -> float | None:
    """Round a number; return None for NaN and infinity, which JSON does not support."""
    return None if value is None or not np.isfinite(value) else round(float(value), DIGITS)


def measure_quality(recipe: Recipe, url: str) -> SetQuality:
    """Measure the dataset at `url` with a recipe's backbone, and write the result to the dataset's `stats.json`.

    If the recipe's dataset has the split selected by `evaluation.split`, the domain shift from this split is also
    measured.

    Raises:
        UserError: the synthetic dataset does not exist, or its classes differ from those of the recipe's dataset.
    """
    import torch  # slow to import, and not needed to read `stats.json`

    dataset = load_dataset(recipe.dataset)
    plan = read_set(url)
    if plan is not None and list(plan.classnames) != dataset.classnames:
        raise UserError(
            f"{url} has {plan.classes} classes of dataset {plan.dataset!r}, not the {len(dataset.classnames)} classes "
            f"of {dataset.name!r}; set dataset.name to the matching dataset"
        )
    prompts = [dataset.prompt(label) for label in range(len(dataset.classnames))]
    clip = FrozenClip(recipe.backbone, prompts, "cuda" if torch.cuda.is_available() else "cpu")
    with storage.lock(url, "shards quality"):
        return set_quality(url, clip, dataset.splits.get(recipe.evaluation.split))
