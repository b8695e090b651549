"""Assess a dataset and a CLIP model before generating any images: name knowledge, expected gain and advice.

All measurements use only the class names and the few-shot images of the base classes, never test images. A pilot is
evaluated on validation images; test images are accepted only for an explicitly specified pilot on a dataset without a
validation split.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.datasets import Dataset, load_dataset
from syncclip.datasets.dataset import DatasetSettings
from syncclip.datasets.loading import is_dataset_name
from syncclip.evaluation.metrics import Number
from syncclip.evaluation.name_knowledge import NameKnowledge, name_knowledge
from syncclip.recipe.recipe import Recipe
from syncclip.runs.classes import clip_of
from syncclip.storage.urls import absolute
from syncclip.studies import gain_prediction, outputs
from syncclip.studies.gain_prediction import ExpectedGain
from syncclip.studies.name_knowledge import encode_shots, few_shot_samples, untrained_parts
from syncclip.studies.pilot import SPLIT, Pilot, read_pilot
from syncclip.studies.run import folder_of
from syncclip.studies.statistics.bootstrap import Floats

PAIRS = 5
"""Number of pairs of classes that are listed."""

MIN_SHARE = 0.5
"""Required number of training images per base class for a prediction, as a share of the gain map's shots.

The datasets of the bundled map, whose own small classes contain fewer than 16 images, have shares of 0.55 to 0.85.
"""

LIMITS = (
    "The gain map was measured on drawings, with one family of small CLIP models; gains on photographs may differ.",
    "All images are from the bundled generator; a generator that does not know the classes gains less.",
    "All gains and name knowledge are for one number of shots; gains with other numbers of shots may differ.",
    "An interval is for one method; the best of several methods is likely to gain less than predicted.",
)
"""What the gain map cannot predict."""


@dataclass(frozen=True)
class ClassPair:
    """Two class names, with the cosine similarity of their text features, or the percentage of confused images."""

    names: tuple[str, str]
    value: float


@dataclass(frozen=True)
class Assessment:
    """Measured values of a dataset and a CLIP model, expected gains, and advice.

    Attributes:
        clip: name and weights of the CLIP model.
        base, novel: numbers of classes.
        images: number of distinct few-shot images over all seeds of the study.
        chance: chance-level accuracy (guessing among the base classes), in per cent.
        zero_shot, class_means, name_knowledge: see `DatasetKnowledge`; base classes are the candidates.
        similar: pairs of classes (base or novel) with the most similar text features.
        confused: pairs of base classes whose few-shot images zero-shot CLIP confuses most often.
        map_shots: number of shots of the gain map, used to measure name knowledge for predictions; None without a
            prediction.
        map_knowledge: name knowledge measured with `map_shots` shots.
        map_range: smallest and largest name knowledge in the gain map; None without a prediction.
        expected: expected gains of each configuration and number of images; empty without a prediction.
        recommended: recommended configuration with the smallest sufficient number of images.
        reason: reason for a missing prediction; None if there is a prediction.
        pilot: measured result of a pilot study.
        validation: whether the dataset has a validation split, on which a pilot can be evaluated.
    """

    dataset: str
    clip: str
    base: int
    novel: int
    images: int
    chance: float
    zero_shot: float
    class_means: float
    name_knowledge: Number
    similar: tuple[ClassPair, ...]
    confused: tuple[ClassPair, ...]
    map_shots: int | None = None
    map_knowledge: Number | None = None
    map_range: tuple[float, float] | None = None
    expected: tuple[ExpectedGain, ...] = ()
    recommended: ExpectedGain | None = None
    reason: str | None = None
    pilot: Pilot | None = None
    validation: bool = True
    limits: tuple[str, ...] = field(default=LIMITS)


def assess(recipe: Recipe, pilot: str | None = None) -> Assessment:
    """Predict whether synthetic images will help on a dataset, without generating any.

    For a dataset in the gain map, gains are predicted from the other datasets. Predictions require name knowledge
    measured with the gain map's number of shots, because name knowledge depends on this number; there is no
    prediction if the base classes have, on average, fewer than half as many training images.

    Args:
        recipe: recipe with a single dataset; its `dataset` and `backbone` sections are used.
        pilot: folder of a finished study with 1 to 4 images per class on the same dataset and CLIP model, evaluated on
            validation images (`evaluation.split=val`), or on test images if the dataset has no validation split;
            default: the recipe's own study folder, if it contains such a study evaluated on validation images.

    Raises:
        UserError: the dataset has no training images, fewer than 2 base classes or only one image per base class; the
            CLIP model is not available; or the pilot is unsuitable.

    Examples:
        >>> from syncclip import Recipe, assess
        >>> assessment = assess(Recipe.load("travel"))
        >>> 0 < assessment.chance < assessment.zero_shot < assessment.class_means
        True
    """
    measured = measure(recipe)
    return replace(_predicted(recipe, measured), pilot=_pilot(recipe, pilot))


def _predicted(recipe: Recipe, measured: Assessment) -> Assessment:
    """Add the expected gains to the measured values or, if no prediction is possible, the reason."""
    table = gain_prediction.installed_map()
    if table is None or table.empty:
        return replace(measured, reason=gain_prediction.reason_without(None, measured.name_knowledge))
    shots = gain_prediction.shots_of(table)
    if (available := _mean_shots(load_dataset(recipe.dataset), shots)) < MIN_SHARE * shots:
        return replace(
            measured,
            reason=f"the gain map was measured with {counted(shots, 'shot')}, but the base classes have only "
            f"{available:.1f} training images on average",
        )
    try:
        same = shots == recipe.dataset.shots
        knowledge = (measured if same else measure(recipe.with_values({"dataset.shots": shots}))).name_knowledge
    except UserError as error:  # a dataset packed with fewer shots
        return replace(measured, reason=f"name knowledge with the gain map's {counted(shots, 'shot')}: {error}")
    table = gain_prediction.without_dataset(table, name_in_map(recipe.dataset))
    expected = gain_prediction.predict(table, knowledge)
    return replace(
        measured,
        map_shots=shots,
        map_knowledge=knowledge,
        map_range=gain_prediction.range_of(table) if len(table) else None,
        expected=expected,
        recommended=gain_prediction.recommend(expected),
        reason=None if expected else gain_prediction.reason_without(table, knowledge),
    )


def _mean_shots(dataset: Dataset, shots: int) -> float:
    """Return the mean number of few-shot images per base class, at most `shots` each."""
    labels = dataset.split("train").labels if dataset.whole_train is None else dataset.whole_train
    images = np.bincount(labels, minlength=len(dataset.classnames))[dataset.base]
    return float(images.clip(max=shots).mean())


def name_in_map(dataset: DatasetSettings) -> str:
    """Return the name of a dataset in the gain map: `suite/name`, or the name of a benchmark dataset.

    The name of a dataset given by path consists of the last two folders, so copies of a dataset share its name.
    """
    name = dataset.name.rstrip("/")
    if is_dataset_name(name):
        return name
    url = absolute(name if dataset.root is None else storage.join(dataset.root, name))
    return "/".join(url.rstrip("/").split("/")[-2:])


def measure(recipe: Recipe) -> Assessment:
    """Measure name knowledge and find the most similar classes, without predictions; see `assess` for errors."""
    parts = untrained_parts(recipe)
    dataset = parts.dataset
    if len(dataset.base) < 2:
        raise UserError(
            f"dataset {dataset.name!r} has only one base class, but assess requires at least 2; list more classes in "
            "dataset.base, or use dataset.base=all"
        )
    shots = encode_shots(recipe, parts, few_shot_samples(recipe, dataset))
    knowledge = shots.knowledge()
    if np.isnan(knowledge.zero_shot):
        raise UserError(
            f"dataset {dataset.name!r}: every base class has only one training image, but assess requires at least 2 "
            "per class; add images or increase dataset.shots"
        )
    return Assessment(
        dataset=dataset.name,
        clip=clip_of(recipe),
        base=len(dataset.base),
        novel=len(dataset.novel),
        images=knowledge.images,
        chance=100 / len(dataset.base),
        zero_shot=knowledge.zero_shot,
        class_means=knowledge.class_means,
        name_knowledge=knowledge.ratio,
        similar=_similar(dataset, shots.texts),
        confused=_confused(dataset, name_knowledge(shots.features, shots.labels, shots.texts)),
        validation=SPLIT in dataset.splits,
    )


def _similar(dataset: Dataset, texts: Floats) -> tuple[ClassPair, ...]:
    """Return the pairs of candidate classes whose unit-length text features have the largest cosine similarities."""
    labels = dataset.candidates
    first, second = np.triu_indices(len(labels), 1)
    cosines = (texts[labels] @ texts[labels].T)[first, second]
    names = [dataset.classnames[label] for label in labels]
    best = np.argsort(-cosines, kind="stable")[:PAIRS]
    return tuple(ClassPair((names[first[i]], names[second[i]]), float(cosines[i])) for i in best)


def _confused(dataset: Dataset, knowledge: NameKnowledge) -> tuple[ClassPair, ...]:
    names = dataset.classnames
    pairs = sorted(knowledge.confused[:PAIRS], key=lambda pair: -pair.share)
    return tuple(ClassPair((names[pair.labels[0]], names[pair.labels[1]]), pair.share) for pair in pairs)


def _pilot(recipe: Recipe, url: str | None) -> Pilot | None:
    """Read the pilot at `url` or, if None, a suitable study in the recipe's folder, evaluated on validation images."""
    if url is not None:
        return read_pilot(url, recipe)
    own = folder_of(recipe)
    path = storage.join(own, outputs.STATE)
    if storage.exists(path) and outputs.read_json(path).get("split") == SPLIT:
        with suppress(UserError):  # an unfinished, larger or different study
            return read_pilot(own, recipe)
    return None
