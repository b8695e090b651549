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
    "all_classes_base": "base (all)",
    "all_classes_novel": "novel (all)",
    "all_classes_accuracy": "accuracy (all)",
    "all_classes_hm": "HM (all)",
    "openworld_auc": "OpenworldAUC",
    "ece": "ECE",
}
"""Keys of `results.json` and their headings, all in per cent. "(all)": with all classes as candidates; otherwise those
of the image's own split."""
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
    result: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return result


def pairs_won(base_score: Floats, right: npt.NDArray[np.bool_], novel: npt.NDArray[np.bool_]) -> Floats:
    """(P,) number of correctly classified images of the other split that each image is ranked correctly against.

    A pair is ranked correctly if the base image's score is higher than the novel image's; ties are not.

    Args:
        base_score: (P,) score of being a base class, see `Predictions`.
        right: (P,) whether the prediction within the image's split is correct.
        novel: (P,) whether the image's class is novel.
    """
    of_base, of_novel = (np.sort(base_score[right & split]) for split in (~novel, novel))
    won = np.empty(len(novel), np.float64)
    won[~novel] = np.searchsorted(of_novel, base_score[~novel], side="left")
    won[novel] = len(of_base) - np.searchsorted(of_base, base_score[novel], side="right")
    return won


def openworld_auc(base_score: Floats, right: npt.NDArray[np.bool_], novel: npt.NDArray[np.bool_]) -> float:
    """OpenworldAUC: the percentage of pairs of a base and a novel image that are both classified correctly within their
    split and ranked correctly; NaN if a split has no images. Arguments as for `pairs_won`.

    Source: OpenworldAUC, ICML 2025, arXiv 2505.05180.
    """
    won = pairs_won(base_score, right, novel)[~novel & right].sum()
    return float(percentage(won, (~novel).sum() * novel.sum()))


def calibration_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error in percent: the mean gap of confidence and accuracy over bins of equal width.

    Args:
        confidence: (n,) probability of the predicted class, n > 0.
        right: (n,) whether the prediction is correct.
        bins: number of bins of equal width over (0, 1], each open below and closed above.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    assert len(confidence) == len(right) > 0
    indices = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(indices, weights=right.astype(np.float64) - confidence, minlength=bins)
    return float(100 * np.abs(gaps).sum() / len(confidence))
