"""Class-balanced selection of rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def balanced_rows(labels: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Select up to `limit` rows round-robin over the classes, and return their indices in ascending order."""
    rows: npt.NDArray[np.int64] = np.sort(np.lexsort((labels, ranks(labels)))[:limit]).astype(np.int64)
    return rows


def ranks(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each row, count the earlier rows with the same label; return an array of shape (N,)."""
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return rank
