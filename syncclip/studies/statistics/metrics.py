"""Every metric of runs from their answers: of all images, or where only some of a half are taken, as a draw does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from syncclip.evaluation.metrics import HARMONIC, METRICS, Floats, harmonic_mean, pairs_won, percentage

DRAWS_AT_ONCE = 256


@dataclass(frozen=True)
class Answers:
    """What the runs of one configuration answered on one dataset, one row a run.

    Attributes:
        own: (S, P) bool, right among the candidates of the image's own half.
        open: (S, P) bool, right among all classes.
        base_score: (S, P), see `Predictions`; NaN where it was not measured.
        label: (P,) class ids.
        base: number of base classes, which have the first ids.
    """

    own: npt.NDArray[np.bool_]
    open: npt.NDArray[np.bool_]
    base_score: Floats
    label: npt.NDArray[np.int64]
    base: int

    def __post_init__(self) -> None:
        assert self.own.shape == self.open.shape == self.base_score.shape, "one answer an image"
        assert self.own.shape[1:] == self.label.shape, "one answer an image"

    @property
    def novel(self) -> npt.NDArray[np.bool_]:
        """(P,) whether the image shows a novel class."""
        return self.label >= self.base

    @cached_property
    def won(self) -> Floats:
        """(S, P) of each run and image: see `pairs_won`; NaN of a run that was not measured."""
        return np.stack(
            [
                pairs_won(score, right, self.novel) if np.isfinite(score).all() else np.full(len(score), np.nan)
                for score, right in zip(self.base_score, self.own, strict=True)
            ]
        )


class Taken(NamedTuple):
    """Which units of one half of a dataset are taken in each draw: images, or classes with all of theirs."""

    counts: npt.NDArray[np.uint16]
    """(R, U) how often each unit is taken."""
    unit: npt.NDArray[np.int64]
    """(P_half,) the unit of each of the half's images."""


class _Hits(NamedTuple):
    """What the images of one half add to the metrics: of each run (S,), or of each draw and run (R, S)."""

    own: Floats
    open: Floats
    pairs: Floats
    """True pairs with an image of the other half, see `openworld_auc`."""
    images: Floats
    """(1,) or (R, 1)."""


def run_metrics(answers: Answers) -> dict[str, Floats]:
    """Every metric of every run on one dataset, in per cent: of each of `METRICS` (1, S), NaN where a half is empty."""
    return _metrics(_hits(answers, False, None), _hits(answers, True, None), False)


def drawn_metrics(answers: Answers, novel: bool, taken: Taken | None) -> dict[str, Floats]:
    """The same where of one half's images those that are taken count, in each draw: (R, S), or (1, S) without draws."""
    base, novel_half = (_hits(answers, half, taken if half == novel else None) for half in (False, True))
    return _metrics(base, novel_half, novel)


def _hits(answers: Answers, novel: bool, taken: Taken | None) -> _Hits:
    """All metrics are sums over a half's images, so that a draw of thousands is one product of matrices."""
    half = answers.novel == novel
    own = answers.own[:, half].astype(np.float64)
    each = np.concatenate([own, answers.open[:, half], own * answers.won[:, half], np.ones((1, len(own.T)))])
    if taken is None:
        sums = each.sum(axis=1)[None]
    else:
        units = taken.counts.shape[1]
        of_unit = np.stack([np.bincount(taken.unit, weights=row, minlength=units) for row in each], axis=1)
        starts = range(0, len(taken.counts), DRAWS_AT_ONCE)
        sums = np.concatenate([taken.counts[at : at + DRAWS_AT_ONCE].astype(np.float64) @ of_unit for at in starts])
    runs = len(own)
    return _Hits(sums[:, :runs], sums[:, runs : 2 * runs], sums[:, 2 * runs : 3 * runs], sums[:, -1:])


def _metrics(base: _Hits, novel: _Hits, novel_drawn: bool) -> dict[str, Floats]:
    pairs = (novel if novel_drawn else base).pairs
    found = {
        "base": percentage(base.own, base.images),
        "novel": percentage(novel.own, novel.images),
        "all_classes_base": percentage(base.open, base.images),
        "all_classes_novel": percentage(novel.open, novel.images),
        "all_classes_accuracy": percentage(base.open + novel.open, base.images + novel.images),
        "openworld_auc": percentage(pairs, base.images * novel.images),
    }
    shape = np.broadcast_shapes(*(one.shape for one in found.values()))
    return with_harmonic({name: np.broadcast_to(one, shape) for name, one in found.items()})


def with_harmonic(found: dict[str, Floats]) -> dict[str, Floats]:
    """All of `METRICS`, where the harmonic means follow from the others."""
    found |= {name: harmonic_mean(found[first], found[second]) for name, (first, second) in HARMONIC.items()}
    return {name: found[name] for name in METRICS}


def mean_metrics(datasets: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """The mean of every metric over datasets; of harmonic means, the harmonic mean of the means.

    Args:
        datasets: of each, what `run_metrics` returns.
    """
    plain = [name for name in METRICS if name not in HARMONIC]
    parts = {name: np.broadcast_arrays(*(one[name] for one in datasets)) for name in plain}
    return with_harmonic({name: np.mean(part, axis=0) for name, part in parts.items()})
