"""Size of a planned study, and the smallest difference that it can detect."""

from __future__ import annotations

import math
from collections.abc import Collection

from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.datasets import load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.studies.statistics.power import POWER, Design, detectable_difference, required

TARGET = 5.0
"""Difference in points for which the required numbers of classes and seeds are reported."""


def design_of(recipes: Collection[Recipe]) -> Design | None:
    """Return the size of a study on one or more datasets, or None if test images of novel classes are unavailable."""
    classes = images = seeds = 0
    for recipe in recipes:
        dataset = load_dataset(recipe.dataset)
        try:
            labels = dataset.split(recipe.evaluation.split).labels
        except UserError:
            return None
        novel = [label for label in labels if label >= len(dataset.base)]
        classes, images, seeds = classes + len(set(novel)), images + len(novel), len(recipe.study.seeds)
    return Design(classes, seeds, images / classes, len(recipes)) if classes else None


def power_line(recipes: Collection[Recipe]) -> str | None:
    """Describe the statistical power of a planned study, assuming the standard deviations measured on `icons`."""
    design = design_of(recipes)
    if design is None:
        return None
    level = next(iter(recipes)).study.confidence_level
    shown = detectable_difference(design, confidence_level=level)
    size = (
        f"with {counted(design.classes, 'novel class', 'novel classes')}, {counted(design.seeds, 'seed')} and "
        f"{counted(round(design.images), 'test image')} per class"
    )
    points = "no difference" if math.isinf(shown) else f"differences above {shown:.{0 if shown >= 10 else 1}f} points"
    line = f"power: {size}, {points} would be detected ({100 * POWER:.0f} % power, if gains vary as on icons)"
    if shown <= TARGET:
        return line
    needed = required(TARGET, design, confidence_level=level)
    if needed is None:
        return f"{line}; {TARGET:g} points require more test images per class"
    classes, seeds = needed
    return f"{line}; {TARGET:g} points require about {classes:,} novel classes and {counted(seeds, 'seed')}"
