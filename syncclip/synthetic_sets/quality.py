"""How good a synthetic set is, by a frozen CLIP: read right, varied, near the real images, nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from syncclip import storage
from syncclip.core.order import evenly
from syncclip.core.settings import Settings, UserError
from syncclip.datasets import load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.synthesis.filters import FrozenClip
from syncclip.synthesis.filters.clip import encode_set
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.prompts.settings import PromptCoverage, coverage
from syncclip.synthetic_sets.imported import read_set
from syncclip.synthetic_sets.shift import Floats, Labels, Shift, measure

STATS_NAME = "stats.json"
MOST = 20_000
"""Images of each domain that are looked at: as many of each class as go into it, the first ones."""
DUPLICATE = 0.99
"""Cosine from which on two images are near-duplicates."""
PAIRS = 20
"""Pairs of near-duplicates that are named."""
BLOCK = 2048
DIGITS = 5


class ClassQuality(Settings):
    """Of one class."""

    name: str
    images: int
    """That were looked at."""
    accuracy: float | None
    """Per cent that the frozen CLIP reads as this class, among all; None where there is no image."""
    similarity: float | None
    """Mean cosine of two different images; None of fewer than two."""
    shift: float | None
    """1 - cosine between the centres of real and synthetic images; None where one is missing."""


class ShiftNumbers(Settings):
    """Of a `sets.shift.Shift`, short enough for a file."""

    centroid_distance: float
    relative_distance: float | None
    overlap: float
    frechet: float


class SetQuality(Settings):
    """What `stats.json` holds beside a set."""

    format: int = 1
    backbone: str
    """The CLIP that looked at them."""
    images: int
    """Images of the set."""
    measured: int
    """Images that were looked at."""
    accuracy: float
    """Per cent that the frozen CLIP reads as their own class, among all."""
    similarity: float | None
    """Mean cosine of two images of one class, mean over classes: the lower, the more varied."""
    real_similarity: float | None
    """The same of the real images, as a yardstick."""
    shift: ShiftNumbers | None
    """From the real images to the synthetic ones; None without real images."""
    near_duplicates: int
    """Images that resemble an earlier one, of any class, by a cosine of at least `duplicate`."""
    duplicate: float
    pairs: tuple[tuple[int, int], ...]
    """Sample numbers of the first of them, each with the nearest earlier image."""
    prompts: PromptCoverage | None
    """None for a set that was not generated here."""
    classes: tuple[ClassQuality, ...]


class Seen(NamedTuple):
    """Images as the CLIP sees them: (N, D) features of length 1, (N,) class ids and rows."""

    features: Floats
    labels: Labels
    rows: Labels


def set_quality(url: str, clip: FrozenClip, real: ImageSet | None, most: int = MOST) -> SetQuality:
    """Measure the set at `url` and keep the numbers there as stats.json, in the place of older ones.

    Args:
        url: folder or URL of the set.
        clip: looks at the images, with one sentence for each class.
        real: real images of the same classes, None for none.
        most: images of each domain that are looked at.

    Raises:
        UserError: there is no set, or not one image can be read.
    """
    plan = read_set(url)
    if plan is None:
        raise UserError(f"{url}: no synthetic set there; generate one with `syncclip synth RECIPE --out {url}`")
    images = ShardSet(url)
    made = _see(images, clip, most, "synthetic")
    if not len(made.rows):
        raise UserError(f"{url}: not one image can be read; see `syncclip shards verify {url}`")
    true = None if real is None else _see(real, clip, most, "real")
    shift = numbers = None
    if true is not None and np.intersect1d(made.labels, true.labels).size:
        shift = measure(true.features, true.labels, made.features, made.labels)
        numbers = ShiftNumbers(**{name: _known(getattr(shift, name)) for name in ShiftNumbers.model_fields})
    right = (made.features @ clip.classes.double().cpu().numpy().T).argmax(axis=1) == made.labels
    classes = _classes(plan.classnames, made, right, shift)
    count, pairs = near_duplicates(made.features)
    index = images.samples.index[made.rows]
    real_similarity = prompts = None
    if true is not None:
        real_similarity = _mean([similarity(true.features[true.labels == label]) for label in np.unique(true.labels)])
    if isinstance(plan, Plan):
        prompts = coverage(plan.prompts, plan.template, plan.classnames, plan.images_per_class)
    quality = SetQuality(
        backbone=clip.backbone.name,
        images=len(images),
        measured=len(made.rows),
        accuracy=round(100 * float(right.mean()), DIGITS),
        similarity=_mean([one.similarity for one in classes]),
        real_similarity=real_similarity,
        shift=numbers,
        near_duplicates=count,
        duplicate=DUPLICATE,
        pairs=tuple((int(index[later]), int(index[earlier])) for later, earlier in pairs),
        prompts=prompts,
        classes=classes,
    )
    storage.write_document(storage.join(url, STATS_NAME), quality, plan.owner)
    storage.require(url, [STATS_NAME])
    storage.write_contents(url, plan.owner)
    return quality


def similarity(features: Floats) -> float | None:
    """Mean cosine of two different rows of (n, D) features of length 1; None of fewer than two."""
    count = len(features)
    return None if count < 2 else float(((features.sum(axis=0) ** 2).sum() - count) / (count * (count - 1)))


def near_duplicates(features: Floats) -> tuple[int, list[tuple[int, int]]]:
    """How many rows of (N, D) features have an earlier near-duplicate, and the first `PAIRS` of them with the nearest.

    Compares all pairs, a block at a time: 20,000 images take seconds.
    """
    small = features.astype(np.float32)
    count = 0
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(small), BLOCK):
        block = small[start : start + BLOCK]
        cosines = block @ small[: start + len(block)].T
        cosines[np.arange(cosines.shape[1]) >= np.arange(start, start + len(block))[:, None]] = -1  # not earlier
        found = np.flatnonzero(cosines.max(axis=1) >= DUPLICATE)
        count += len(found)
        pairs += [(start + int(row), int(cosines[row].argmax())) for row in found[: PAIRS - len(pairs)]]
    return count, pairs


def _classes(
    names: Sequence[str], made: Seen, right: npt.NDArray[np.bool_], shift: Shift | None
) -> tuple[ClassQuality, ...]:
    found = []
    for label, name in enumerate(names):
        mine = made.labels == label
        accuracy = _known(100 * float(right[mine].mean())) if mine.any() else None
        apart = None if shift is None else _known(shift.per_class.get(label))
        alike = _known(similarity(made.features[mine]))
        found.append(ClassQuality(name=name, images=int(mine.sum()), accuracy=accuracy, similarity=alike, shift=apart))
    return tuple(found)


def _see(images: ImageSet, clip: FrozenClip, most: int, name: str) -> Seen:
    """What the CLIP sees of a set; images that can't be read are left out."""
    labels = np.asarray(images.labels)
    kept, features = encode_set(images, clip, evenly(labels, most).tolist(), f"quality ({name})")
    return Seen(features.double().numpy(), labels[kept], np.array(kept, np.int64))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _known(float(np.mean(known))) if known else None


def _known(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return None if value is None or not np.isfinite(value) else round(float(value), DIGITS)


def measure_quality(recipe: Recipe, url: str) -> SetQuality:
    """Measure the set at `url` and keep the numbers beside it as stats.json.

    The real images are those of `evaluation.split`; a dataset without that split has no shift.

    Args:
        recipe: names dataset and backbone.
        url: folder or URL of the set.

    Raises:
        UserError: there is no set, or it shows other classes than the dataset.
    """
    import torch  # for this alone: whoever reads what was measured goes without

    dataset = load_dataset(recipe.dataset)
    plan = read_set(url)
    if plan is not None and list(plan.classnames) != dataset.classnames:
        raise UserError(
            f"{url} shows {plan.classes} classes of dataset {plan.dataset!r}, not the {len(dataset.classnames)} "
            f"of {dataset.name!r}; name its dataset with dataset.name=NAME"
        )
    prompts = [dataset.prompt(label) for label in range(len(dataset.classnames))]
    clip = FrozenClip(recipe.backbone, prompts, "cuda" if torch.cuda.is_available() else "cpu")
    with storage.lease(url, "shards quality"):
        return set_quality(url, clip, dataset.splits.get(recipe.evaluation.split))
