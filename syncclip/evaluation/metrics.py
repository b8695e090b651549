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
    "open_base": "open base",
    "open_novel": "open novel",
    "open_all": "open all",
    "open_hm": "open HM",
    "openworld_auc": "OpenworldAUC",
    "ece": "ECE",
}
"""Keys of `results.json` and their headings, all per cent. Open: among all classes; otherwise among those of the
image's half."""
METRICS = tuple(key for key in METRIC_HEADINGS if key != "ece")
"""The accuracies: of each half among its own classes with their harmonic mean, and the same among all classes; and
OpenworldAUC."""
HARMONIC = {"hm": ("base", "novel"), "open_hm": ("open_base", "open_novel")}
"""Metrics that are made of means, as the literature makes them: first the means over datasets, then theirs."""


def harmonic_mean(
    first: npt.NDArray[np.float64] | float, second: npt.NDArray[np.float64] | float
) -> npt.NDArray[np.float64]:
    """2ab / (a + b) element by element, 0 where both are 0, NaN where one is."""
    total = np.asarray(first, dtype=np.float64) + second
    return np.divide(2 * np.asarray(first) * second, total, out=np.asarray(0 * total), where=total > 0)


def openworld_auc(
    base_score: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
    novel: npt.NDArray[np.bool_],
    counts: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Of the pairs of a base and a novel image, the percentage in which all three are true: each is classified rightly
    among the classes of its half, and the base image looks more like a base class than the novel one does.

    Args:
        base_score: (P,) how much an image looks like a base class, see `Predictions`; of equal ones none is more.
        right: (P,) whether the prediction within the image's half is right.
        novel: (P,) whether an image shows a novel class.
        counts: (R, P) how often each image counts; None: once.

    Returns:
        (R,); R is 1 without counts. NaN where a half has no images.

    Source: OpenworldAUC, ICML 2025, arXiv 2505.05180.
    """
    counts = np.ones((1, len(novel))) if counts is None else counts
    order = np.flatnonzero(novel)[np.argsort(base_score[novel], kind="stable")]
    below = np.searchsorted(base_score[order], base_score[~novel], side="left")
    novel_hits = np.concatenate(
        [np.zeros((len(counts), 1)), np.cumsum(counts[:, order] * right[order], axis=1)], axis=1
    )
    hits = (counts[:, ~novel] * right[~novel] * novel_hits[:, below]).sum(axis=1)
    pairs = counts[:, ~novel].sum(axis=1) * counts[:, novel].sum(axis=1)
    areas: npt.NDArray[np.float64] = np.divide(100 * hits, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
    return areas


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
