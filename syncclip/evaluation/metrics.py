"""The metrics of an evaluation: their keys and headings, harmonic means, and calibration."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float of a JSON file, which holds null where it is not finite; null is read as NaN."""

METRIC_HEADINGS = {
    "base": "base",
    "novel": "novel",
    "hm": "HM",
    "all_classes_base": "open base",
    "all_classes_novel": "open novel",
    "all_classes_accuracy": "open all",
    "all_classes_hm": "open HM",
    "openworld_auc": "OpenworldAUC",
    "ece": "ECE",
}
"""Keys of `results.json`, in percent, and their headings. Open: among all classes; otherwise within the split."""
METRICS = tuple(key for key in METRIC_HEADINGS if key != "ece")
"""The accuracies within each split and among all classes with their harmonic means, and OpenworldAUC."""
HARMONIC = {"hm": ("base", "novel"), "all_classes_hm": ("all_classes_base", "all_classes_novel")}
"""Harmonic means, which the literature computes from means over datasets."""


Floats = npt.NDArray[np.float64]


def harmonic_mean(first: Floats | float, second: Floats | float) -> Floats:
    """2ab / (a + b) element by element, 0 where both are 0, NaN where one is."""
    total = np.asarray(first, dtype=np.float64) + second
    return np.divide(2 * np.asarray(first) * second, total, out=np.asarray(0 * total), where=total > 0)


def percentage(part: Floats | float, whole: Floats | float) -> Floats:
    """100 part / whole element by element, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(100 * np.asarray(part, np.float64), whole)
    found: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return found


def pairs_won(base_score: Floats, right: npt.NDArray[np.bool_], novel: npt.NDArray[np.bool_]) -> Floats:
    """(P,) of each image the rightly classified ones of the other half from which its score tells it apart.

    A base image is told apart from a novel one if it looks more like a base class; of equal ones none is.

    Args:
        base_score: (P,) how much an image looks like a base class, see `Predictions`.
        right: (P,) whether the prediction within the image's half is right.
        novel: (P,) whether an image shows a novel class.
    """
    of_base, of_novel = (np.sort(base_score[right & half]) for half in (~novel, novel))
    won = np.empty(len(novel), np.float64)
    won[~novel] = np.searchsorted(of_novel, base_score[~novel], side="left")
    won[novel] = len(of_base) - np.searchsorted(of_base, base_score[novel], side="right")
    return won


def openworld_auc(base_score: Floats, right: npt.NDArray[np.bool_], novel: npt.NDArray[np.bool_]) -> float:
    """Of the pairs of a base and a novel image, the percentage in which all three are true: each is classified rightly
    among the classes of its half, and the base image looks more like a base class than the novel one does.

    Args:
        base_score, right, novel: see `pairs_won`.

    Returns:
        NaN where a half has no images.

    Source: OpenworldAUC, ICML 2025, arXiv 2505.05180.
    """
    won = pairs_won(base_score, right, novel)[~novel & right].sum()
    return float(percentage(won, (~novel).sum() * novel.sum()))


def calibration_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error in percent: the mean gap of confidence and accuracy over bins of equal width.

    Args:
        confidence: (n,) probability of the predicted class, n > 0.
        right: (n,) whether the prediction is right.
        bins: of equal width over (0, 1], each open below and closed above.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    assert len(confidence) == len(right) > 0
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=right.astype(np.float64) - confidence, minlength=bins)
    return float(100 * np.abs(gaps).sum() / len(confidence))
