"""Evaluation metrics: keys and headings, harmonic means, OpenworldAUC and calibration error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from syncclip.core.text import MISSING

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""Float read from JSON, in which null represents NaN."""

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
"""Maps metrics in `results.json` (in per cent) to table headings; "(all)" marks all classes as candidates."""
MEANINGS = {
    "HM": "harmonic mean of base and novel accuracy",
    "(all)": "all classes are candidates, not only those of the same split",
    "OpenworldAUC": "share of base-novel image pairs that are classified and ranked correctly",
    "ECE": "expected calibration error, lower is better",
    MISSING: "not measured or not applicable",
}
"""Maps terms in table headings, and the content of empty cells, to their meanings."""
METRICS = tuple(key for key in METRIC_HEADINGS if key != "ece")
"""Within-split and all-classes accuracies, their harmonic means, and OpenworldAUC."""
HARMONIC = {"hm": ("base", "novel"), "all_classes_hm": ("all_classes_base", "all_classes_novel")}
"""Maps each harmonic mean to its two accuracies, which are first averaged over datasets."""


Floats = npt.NDArray[np.float64]


def legend(texts: Iterable[str], separator: str = "\n") -> str:
    """Explain the terms in the headings and cells of a table."""
    text = " ".join(texts)
    return separator.join(f"{term}: {meaning}" for term, meaning in MEANINGS.items() if term in text)


def harmonic_mean(first: Floats | float, second: Floats | float) -> Floats:
    """Return the elementwise harmonic mean 2ab / (a + b): 0 where both values are 0, NaN where either is NaN."""
    total = np.asarray(first, dtype=np.float64) + second
    return np.divide(2 * np.asarray(first) * second, total, out=np.asarray(0 * total), where=total > 0)


def percentage(part: Floats | float, whole: Floats | float) -> Floats:
    """Return the elementwise percentage 100 * part / whole, with NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(100 * np.asarray(part, np.float64), whole)
    result: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return result


def pairs_won(base_score: Floats, right: npt.NDArray[np.bool_], novel: npt.NDArray[np.bool_]) -> Floats:
    """For each image, count the correctly ranked pairs that it forms with correctly classified images of the
    other split.

    A base image and a novel image are ranked correctly if the base image has the strictly higher score.

    Args:
        base_score: (P,) base-class score of each image (see `Predictions`).
        right: (P,) whether the within-split prediction is correct.
        novel: (P,) whether the image belongs to a novel class.
    """
    of_base, of_novel = (np.sort(base_score[right & split]) for split in (~novel, novel))
    won = np.empty(len(novel), np.float64)
    won[~novel] = np.searchsorted(of_novel, base_score[~novel], side="left")
    won[novel] = len(of_base) - np.searchsorted(of_base, base_score[novel], side="right")
    return won


def openworld_auc(base_score: Floats, right: npt.NDArray[np.bool_], novel: npt.NDArray[np.bool_]) -> float:
    """Return OpenworldAUC in per cent, or NaN if a split has no images. See `pairs_won` for the arguments.

    OpenworldAUC is the share of (base image, novel image) pairs that are ranked correctly and whose images are both
    classified correctly.

    Source: OpenworldAUC, ICML 2025, arXiv 2505.05180.
    """
    won = pairs_won(base_score, right, novel)[~novel & right].sum()
    return float(percentage(won, (~novel).sum() * novel.sum()))


def calibration_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Return the expected calibration error (ECE) in per cent.

    ECE is the mean gap between confidence and accuracy over bins, weighted by the number of images per bin.

    Args:
        confidence: (n,) probability of the predicted class; n > 0.
        right: (n,) whether the prediction is correct.
        bins: number of left-open confidence bins of equal width in (0, 1].

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    assert len(confidence) == len(right) > 0
    indices = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(indices, weights=right.astype(np.float64) - confidence, minlength=bins)
    return float(100 * np.abs(gaps).sum() / len(confidence))
