"""How far confidence is from accuracy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
