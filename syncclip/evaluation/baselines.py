"""Baselines of an evaluation: the accuracy of zero-shot CLIP on the same images, and the chance level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from syncclip.evaluation.metrics import HARMONIC, METRIC_HEADINGS, METRICS, harmonic_mean

BASELINES = "baselines"
"""Entry in `results.json`: {"zero_shot": scores, "chance": scores}, with scores as in `results`, in per cent."""

HELP = "https://syncclip.github.io/syncclip/docs/low-accuracy.html"
"""Page about low accuracy."""

BASELINE_NAMES = {"zero_shot": "zero-shot CLIP", "chance": "chance"}


def scores_of(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores in `numbers` that are comparable between classifiers: those in `METRICS`."""
    return {key: numbers[key] for key in METRICS}


def chance(candidates: Sequence[int], base: int) -> dict[str, float | None]:
    """Return the expected accuracies of guessing uniformly among the candidate classes, in per cent.

    Args:
        candidates: ids of the candidate classes.
        base: number of base classes, which have the lowest ids.

    Returns:
        One value per metric in `METRICS`; None for OpenworldAUC and for splits without candidates.
    """
    of_base = sum(label < base for label in candidates)
    scores: dict[str, float | None] = dict.fromkeys(METRICS)
    for split, count in (("base", of_base), ("novel", len(candidates) - of_base)):
        if count:
            scores[split], scores[f"all_classes_{split}"] = 100 / count, 100 / len(candidates)
    scores["all_classes_accuracy"] = 100 / len(candidates)
    for harmonic, (first, second) in HARMONIC.items():
        a, b = scores[first], scores[second]
        scores[harmonic] = None if a is None or b is None else float(harmonic_mean(a, b))
    return scores


def baseline_warnings(
    scores: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, float | None]]
) -> list[str]:
    """Return a warning if methods are not better than a baseline, and another if CLIP hardly knows the classes.

    The criterion is the harmonic mean with all classes as candidates or, if it is undefined, the accuracy with all
    classes. CLIP hardly knows the classes if zero-shot CLIP is less than twice as accurate as chance.

    Args:
        scores: {name of a method: its scores}, in per cent.
        baselines: {key in `BASELINE_NAMES`: its scores}; zero-shot CLIP may be missing.
    """
    key = "all_classes_accuracy" if baselines["chance"].get("all_classes_hm") is None else "all_classes_hm"
    levels = {name: level for name in BASELINE_NAMES if (level := baselines.get(name, {}).get(key)) is not None}
    if "chance" not in levels:
        return []
    best = max(levels, key=levels.__getitem__)
    of_chance = f", chance: {levels['chance']:.1f} %" if best != "chance" else ""
    low = [
        f"{name} ({score:.1f} %{of_chance if score <= levels['chance'] else ''})"
        for name, of_name in scores.items()
        if (score := of_name.get(key)) is not None and score <= levels[best]
    ]
    heading, warnings = METRIC_HEADINGS[key], []
    if low:
        text = f"{heading} is not above {BASELINE_NAMES[best]} ({levels[best]:.1f} %)"
        warnings.append(f"{text} for {', '.join(low)}; see {HELP}")
    if levels.get("zero_shot", np.inf) < 2 * levels["chance"]:
        warnings.append(
            f"CLIP hardly recognises these classes: {heading} of zero-shot CLIP is {levels['zero_shot']:.1f} %, of "
            f"chance {levels['chance']:.1f} %; see {HELP}"
        )
    return warnings
