"""Metrics of runs, computed from correct and wrong predictions on all test images or on resamples of one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from syncclip.evaluation.metrics import HARMONIC, METRICS, Floats, harmonic_mean, pairs_won, percentage

RESAMPLES_PER_BATCH = 256


@dataclass(frozen=True)
class Outcomes:
    """Correctness of the predictions of a configuration's S runs for a dataset's P test images.

    Attributes:
        within_split: (S, P) bool, whether the prediction among the classes of the image's split is correct.
        all_classes: (S, P) bool, whether the prediction among all classes is correct.
        base_score: (S, P) base-class score (see `Predictions`); NaN if unknown.
        label: (P,) class ids.
        base: number of base classes, whose ids come first.
    """

    within_split: npt.NDArray[np.bool_]
    all_classes: npt.NDArray[np.bool_]
    base_score: Floats
    label: npt.NDArray[np.int64]
    base: int

    def __post_init__(self) -> None:
        assert self.within_split.shape == self.all_classes.shape == self.base_score.shape, "one prediction per image"
        assert self.within_split.shape[1:] == self.label.shape, "one prediction per image"

    @property
    def novel(self) -> npt.NDArray[np.bool_]:
        """Whether each image belongs to a novel class, (P,) bool."""
        return self.label >= self.base

    @cached_property
    def won(self) -> Floats:
        """Result of `pairs_won` for each run, (S, P); NaN if base scores are unknown."""
        return np.stack(
            [
                pairs_won(score, right, self.novel) if np.isfinite(score).all() else np.full(len(score), np.nan)
                for score, right in zip(self.base_score, self.within_split, strict=True)
            ]
        )


class UnitCounts(NamedTuple):
    """Resamples of one split of a dataset; the resampled unit is an image, or a class with all of its images."""

    counts: npt.NDArray[np.uint16]
    """Number of times that each unit occurs in each resample, (R, U)."""
    unit: npt.NDArray[np.int64]
    """Unit index of each image in the split, (P_split,)."""


class _Sums(NamedTuple):
    """Sums over the images of one split for each resample and run, (R, S), or (1, S) without resampling."""

    within_split: Floats
    all_classes: Floats
    pairs: Floats
    """Number of correct pairs, each with one image from this split and one from the other; see `openworld_auc`."""
    images: Floats
    """Number of images, (R, 1), or (1, 1) without resampling."""


def run_metrics(outcomes: Outcomes) -> dict[str, Floats]:
    """Compute all `METRICS` of each run on one dataset in per cent, (1, S); values without images are NaN."""
    return _metrics(_sums(outcomes, False, None), _sums(outcomes, True, None), False)


def resampled_metrics(outcomes: Outcomes, novel: bool, units: UnitCounts | None) -> dict[str, Floats]:
    """Compute all `METRICS` of each run with one split resampled, (R, S), or (1, S) if `units` is None."""
    base, other = (_sums(outcomes, split, units if split == novel else None) for split in (False, True))
    return _metrics(base, other, novel)


def _sums(outcomes: Outcomes, novel: bool, units: UnitCounts | None) -> _Sums:
    """Sum over a split's images, with matrix products over batches of resamples."""
    split = outcomes.novel == novel
    own = outcomes.within_split[:, split].astype(np.float64)
    rows = np.concatenate([own, outcomes.all_classes[:, split], own * outcomes.won[:, split], np.ones((1, len(own.T)))])
    if units is None:
        sums = rows.sum(axis=1)[None]
    else:
        per_unit = [np.bincount(units.unit, weights=row, minlength=units.counts.shape[1]) for row in rows]
        matrix = np.stack(per_unit, axis=1)
        starts = range(0, len(units.counts), RESAMPLES_PER_BATCH)
        batches = (units.counts[at : at + RESAMPLES_PER_BATCH].astype(np.float64) for at in starts)
        sums = np.concatenate([batch @ matrix for batch in batches])
    runs = len(own)
    return _Sums(sums[:, :runs], sums[:, runs : 2 * runs], sums[:, 2 * runs : 3 * runs], sums[:, -1:])


def _metrics(base: _Sums, novel: _Sums, novel_resampled: bool) -> dict[str, Floats]:
    pairs = (novel if novel_resampled else base).pairs
    metrics = {
        "base": percentage(base.within_split, base.images),
        "novel": percentage(novel.within_split, novel.images),
        "all_classes_base": percentage(base.all_classes, base.images),
        "all_classes_novel": percentage(novel.all_classes, novel.images),
        "all_classes_accuracy": percentage(base.all_classes + novel.all_classes, base.images + novel.images),
        "openworld_auc": percentage(pairs, base.images * novel.images),
    }
    shape = np.broadcast_shapes(*(values.shape for values in metrics.values()))
    return _with_harmonic({name: np.broadcast_to(values, shape) for name, values in metrics.items()})


def _with_harmonic(metrics: dict[str, Floats]) -> dict[str, Floats]:
    """Add the harmonic means, and return the metrics in the order of `METRICS`."""
    metrics |= {name: harmonic_mean(metrics[first], metrics[second]) for name, (first, second) in HARMONIC.items()}
    return {name: metrics[name] for name in METRICS}


def mean_metrics(datasets: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """Average the `run_metrics` of several datasets; compute harmonic means from the averaged accuracies."""
    plain = [name for name in METRICS if name not in HARMONIC]
    parts = {name: np.broadcast_arrays(*(metrics[name] for metrics in datasets)) for name in plain}
    return _with_harmonic({name: np.mean(part, axis=0) for name, part in parts.items()})
