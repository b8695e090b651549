"""Forecast of whether more images will increase accuracy, from a pilot study with few synthetic images per class.

The number of images is a hyperparameter, so a pilot is evaluated on validation images. Test images are only read if the
dataset has no validation split.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.datasets import load_dataset, suite_of
from syncclip.datasets.dataset import Split
from syncclip.recipe.overrides import as_override
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import UNTRAINED, Configuration
from syncclip.runs.classes import clip_of
from syncclip.runs.resolve import with_absolute_paths
from syncclip.storage.urls import absolute
from syncclip.studies import outputs, predictions
from syncclip.studies.analysis import Evidence, origin
from syncclip.studies.gain_prediction import METRIC, SMALL, ExpectedGain
from syncclip.studies.statistics.bootstrap import DIFFERENCE, Floats, Interval, interval

MOST_IMAGES = 4
"""Maximum number of synthetic images per class in a pilot; the report of a larger study answers the question itself."""
REACH = 4
"""Factor by which a pilot's largest number of images is extrapolated."""
EXPONENTS = (0.5, 1.0, 2.0)
"""Assumed exponents c of the remaining gain, (1 + n)^(-c). With c = 1, the remaining gain halves with each doubling of
1 + n; the other values are the bounds of the interval."""

SPLIT: Split = "val"
"""Split on which a pilot is evaluated."""
MAP_RECIPE = "studies/map"
"""Shipped recipe with which the gain map was measured."""
OUT = "runs/pilot"
"""Folder of the pilot in printed commands."""

Verdict = Literal["more images help", "more images do not help", "undecided"]


@dataclass(frozen=True)
class Pilot:
    """Measured and extrapolated gains of a pilot study over training on real images only, in points of `METRIC`.

    Attributes:
        split: split on which the pilot was evaluated; "test" only for a dataset without validation split.
        real_only: baseline without synthetic images.
        images_per_class: largest number of synthetic images per class in the pilot.
        measured: gain at `images_per_class`, with an interval over classes and seeds.
        measured_at: all numbers of synthetic images per class in the pilot, ascending.
        limit: largest number of images per class to which the pilot is extrapolated.
        additional: additional gain from `images_per_class` to `limit`; None without extrapolation.
        reason: reason why the gain cannot be extrapolated; None if it can.
    """

    url: str
    split: str
    configuration: str
    real_only: str
    seeds: int
    images_per_class: int
    measured_at: tuple[int, ...]
    measured: Interval
    limit: int
    additional: Interval | None
    verdict: Verdict
    reason: str | None = None


def read_pilot(url: str, recipe: Recipe | None = None) -> Pilot:
    """Read a finished pilot study, and extrapolate the gain of its reference configuration.

    Args:
        url: folder of the study.
        recipe: recipe with the dataset and CLIP model that the pilot must use.

    Raises:
        UserError: the study is missing, unfinished or too large, was evaluated on test images although the dataset has
            a validation split, has different classes or a different CLIP model, or has no suitable pair of
            configurations.
    """
    url = absolute(url)
    path = storage.join(url, outputs.STATE)
    of_pilot = recipe_of_pilot(url)
    owner, state = storage.read_owner(path), outputs.read_json(path)
    outputs.check_finished(url, state)
    if recipe is not None:
        _require_same(url, recipe, of_pilot)
    split = str(state["split"])
    if split != SPLIT and has_validation(of_pilot):
        raise UserError(
            f"{url}: the study was evaluated on the {split} split, which must not be used to choose the number "
            f"of synthetic images; run a pilot on validation images with `{pilot_command('RECIPE')}`"
        )
    settings = of_pilot.study
    evidence = predictions.read(url, settings.evaluated, owner)
    reference = settings.reference_configuration
    points = [(configuration, n) for configuration, n in evidence.points(reference) if n]
    real_only = real_only_baseline(evidence, reference)
    if not points or real_only is None:
        raise UserError(
            f"{url}: a pilot requires a reference configuration with synthetic images, and a configuration with "
            "data: real; add them to study.configurations"
        )
    amounts = [n for _, n in points if n]
    if amounts[-1] > MOST_IMAGES:
        raise UserError(
            f"{url}: the study has up to {counted(amounts[-1], 'image')} per class, but a pilot has at most "
            f"{MOST_IMAGES}; see the study's own results with `syncclip report {url}`"
        )
    baseline = (real_only, None)
    if not (seeds := evidence.seeds([baseline, *points])):
        raise UserError(f"{url}: no seed has results for all numbers of images per class; run the study again")
    metrics = [evidence.resampled(point, seeds, "classes", settings.resamples)[METRIC] for point in [baseline, *points]]
    estimates = np.array([values[0].mean() for values in metrics])
    resamples = np.stack([values[1] for values in metrics])
    gains, resampled = estimates[1:] - estimates[0], resamples[1:] - resamples[0]
    if not np.isfinite(resampled).all():
        raise UserError(
            f"{url}: the base or the novel split has too few classes for a confidence interval; use more classes"
        )
    limit = REACH * amounts[-1]
    reason = no_extrapolation(evidence, reference)
    additional = None if reason else extrapolate(amounts, gains, resampled, limit, settings.confidence_level)
    measured = interval(gains[-1], resampled[-1], settings.confidence_level, DIFFERENCE)
    return Pilot(
        url,
        split,
        reference.name,
        real_only.name,
        len(seeds),
        amounts[-1],
        tuple(amounts),
        measured,
        limit,
        additional,
        verdict(additional, len(amounts)),
        reason,
    )


def real_only_baseline(evidence: Evidence, configuration: Configuration) -> Configuration | None:
    """Find the baseline trained on real images only, preferably with the same or the equivalent method.

    Returns:
        The baseline (see `origin`), otherwise the first configuration trained on real images only, or None if there is
        none.
    """
    same = origin(evidence, configuration.model_copy(update={"data": "both"}))
    return same or next(
        (
            other
            for other in evidence.configurations
            if other.data == "real" and other.trained and evidence.points(other)
        ),
        None,
    )


def no_extrapolation(evidence: Evidence, reference: Configuration) -> str | None:
    """Return the reason why the reference's gain cannot be extrapolated, or None if it can.

    The extrapolation assumes zero gain without synthetic images, so the baseline must be the reference's own
    counterpart trained on real images only (see `origin`), not another method.
    """
    start = origin(evidence, reference)
    if start is not None and start.trained:
        return None
    if not reference.real:
        return f"{reference.name} is trained on synthetic images only, so its gain is not zero without synthetic images"
    return f"the study has no configuration with data: real for the method and shots of {reference.name}"


def pilot_command(source: str, validation: bool = True, tested: ExpectedGain | None = None) -> str:
    """Return the command that runs a pilot for a recipe.

    Args:
        validation: whether the dataset has a validation split.
        tested: configuration of the gain map to test, with its baseline; default: the recipe's configurations.
    """
    values: dict[str, Any] = {}
    if tested is not None:
        name = tested.configuration.partition("@")[0]
        of_map = Recipe.load(MAP_RECIPE).study.configurations
        used = [_shortest(each) for each in of_map if each.name in (tested.real_only, name)]
        values |= {"study.configurations": [{"method": UNTRAINED}, *used], "study.reference": name}
    if validation:
        values["evaluation.split"] = SPLIT
    overrides = ["study.images_per_class=[1,4]", *(as_override(key, value, Recipe) for key, value in values.items())]
    return f"syncclip study {source} {shlex.join(overrides)} --out {OUT}"


def _shortest(configuration: Configuration) -> dict[str, Any]:
    """Return a configuration's values without defaults."""
    values = configuration.model_dump(exclude_defaults=True, exclude={"test_domains", "images_per_class"})
    unnamed = Configuration(method=configuration.method, data=configuration.data)
    return {key: value for key, value in values.items() if key != "name" or value != unnamed.name}


def has_validation(recipe: Recipe) -> bool:
    """Return whether the recipe's dataset, or every dataset of its suite, has a validation split."""
    datasets = suite_of(recipe.dataset).values() or [recipe.dataset]
    return all(SPLIT in load_dataset(dataset).splits for dataset in datasets)


def recipe_of_pilot(url: str) -> Recipe:
    """Return the recipe of a study; raise a `UserError` if there is none."""
    if not storage.exists(storage.join(url, outputs.STATE)):
        raise storage.wrong_folder(url, "a study", f"no study found; run a pilot with `{pilot_command('RECIPE')}`")
    return Recipe.load(storage.join(absolute(url), outputs.RECIPE), own=False)


def _require_same(url: str, recipe: Recipe, of_pilot: Recipe) -> None:
    ours, theirs = (with_absolute_paths(each) for each in (recipe, of_pilot))
    if clip_of(ours) != clip_of(theirs):
        raise UserError(
            f"{url}: the pilot uses the CLIP model {clip_of(theirs)!r}, not {clip_of(ours)!r}; run a pilot with this "
            "recipe"
        )
    if load_dataset(ours.dataset).classnames != load_dataset(theirs.dataset).classnames:
        raise UserError(
            f"{url}: the pilot's classes differ from those of dataset {recipe.dataset.name!r}; run a pilot with this "
            "recipe"
        )


def extrapolate(
    amounts: list[int], gains: Floats, resampled: Floats, limit: int, confidence_level: float = 0.95
) -> Interval:
    """Extrapolate the gains at a few numbers of images n, and return the additional gain from the largest n to `limit`.

    The gain is modelled as G * s(n) with the shape s(n) = 1 - (1 + n)^(-c). The exponent c is not fitted, but taken
    from `EXPONENTS`. The asymptotic gain G is fitted by least squares. With at least two numbers of images, the last
    measured increment is also extrapolated: it is multiplied by (s3 - s2) / (s2 - s1), for the last two numbers of
    images and the limit. This local extrapolation does not assume that the gain follows s(n) from n = 0, so a flat
    curve remains flat. The interval spans the intervals of all exponents and of both extrapolations; the estimate uses
    the middle exponent and the local extrapolation, if there is one.

    Args:
        amounts: (A,) ascending numbers of images per class.
        gains: (A,) measured gains over 0 images.
        resampled: (A, R) gains in each resample.
    """
    n = np.array([*amounts, limit], np.float64)
    fitted, local = [], []
    for exponent in EXPONENTS:
        shares = 1 - (1 + n) ** -exponent
        weights = shares[:-1] / (shares[:-1] ** 2).sum() * (shares[-1] - shares[-2])
        fitted.append(interval(weights @ gains, weights @ resampled, confidence_level))
        if len(amounts) > 1:
            factor = (shares[-1] - shares[-2]) / (shares[-2] - shares[-3])
            increments = factor * (resampled[-1] - resampled[-2])
            local.append(interval(factor * (gains[-1] - gains[-2]), increments, confidence_level))
    low, high = min(each.low for each in fitted + local), max(each.high for each in fitted + local)
    return Interval((local or fitted)[EXPONENTS.index(1.0)].estimate, low, high)


def verdict(additional: Interval | None, numbers: int) -> Verdict:
    """Determine from the additional gain whether more images help.

    More images help if the gain is significant and its estimate is at least `SMALL`, and do not help if its upper bound
    is below `SMALL`. A pilot with a single number of images cannot show that more images help, because it measures no
    increment.

    Args:
        additional: additional gain; None without extrapolation.
        numbers: count of the distinct numbers of images per class that were measured.
    """
    if additional is None:
        return "undecided"
    if additional.high < SMALL:
        return "more images do not help"
    helps = numbers > 1 and additional.low > 0 and additional.estimate >= SMALL
    return "more images help" if helps else "undecided"
