"""Bootstrap over seeds and test images: how certain is a difference between two arms?

Two sources of randomness are resampled together: the seed (shots, start, order of a training) and the test images.
Both arms of a comparison see the same seeds and the same images in every draw, so what they share cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from syncclip.evaluation.metrics import METRICS, Number, harmonic_mean

Floats = npt.NDArray[np.float64]
DRAWS_AT_ONCE = 256


@dataclass(frozen=True)
class Answers:
    """What the runs of one arm answered, one row a run.

    Attributes:
        own: (S, P) bool, right among the candidates of the image's own half.
        open: (S, P) bool, right among all classes.
        novel: (P,) bool, whether the image shows a novel class.
    """

    own: npt.NDArray[np.bool_]
    open: npt.NDArray[np.bool_]
    novel: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        assert self.own.shape == self.open.shape and self.own.shape[1:] == self.novel.shape, "one answer an image"


@dataclass(frozen=True)
class Draws:
    """Weights of seeds and counts of images in each draw.

    Attributes:
        seeds: (R, S) weights of the seeds, each row's sum is 1.
        images: (R, P) how often each image is taken.
    """

    seeds: Floats
    images: npt.NDArray[np.uint16]


def seed_weights(seeds: int, draws: int, generator: np.random.Generator) -> Floats:
    """Random weights that give a mean over few seeds the spread that is fair to it: (R, S), rows sum to 1.

    Taking whole seeds with replacement fails for the usual three or five: the variance is too small by (S - 1) / S
    and the tails are those of a normal distribution where the mean of a few runs follows Student's. So weights are
    drawn instead (a Gaussian multiplier bootstrap): every weighted mean has the unbiased variance s^2 / S and, by a
    common random scale in each draw, the tails of Student's distribution with S - 1 degrees of freedom. One seed
    alone always weighs 1.

    Args:
        seeds: S, at least 1.
        draws: R.
        generator: source of randomness.
    """
    if seeds == 1:
        return np.ones((draws, 1))
    noise = generator.standard_normal((draws, seeds))
    noise -= noise.mean(axis=1, keepdims=True)
    scale = np.sqrt((seeds - 1) / generator.chisquare(seeds - 1, size=(draws, 1)))
    weights: Floats = 1 / seeds + scale * noise / np.sqrt(seeds * (seeds - 1))
    return weights


def make_draws(seeds: int, novel: npt.NDArray[np.bool_], draws: int, generator: np.random.Generator) -> Draws:
    """Draw seeds' weights and, with replacement, images.

    Images are drawn within each half, whose sizes belong to the dataset and are not random.

    Args:
        seeds: S.
        novel: (P,) which images show a novel class.
        draws: R.
        generator: source of randomness.
    """
    images = np.zeros((draws, len(novel)), dtype=np.uint16)
    for half in (np.flatnonzero(~novel), np.flatnonzero(novel)):
        if half.size:
            images[:, half] = generator.multinomial(half.size, np.full(half.size, 1 / half.size), size=draws)
    return Draws(seed_weights(seeds, draws, generator), images)


def run_metrics(answers: Answers, images: npt.NDArray[np.uint16] | None = None) -> dict[str, Floats]:
    """Every metric of every run, in per cent.

    Args:
        answers: S runs on P images.
        images: (R, P) counts of the images in each draw; every image once where None.

    Returns:
        For each of `METRICS` (R, S); R is 1 where no counts are given. NaN where a half has no images.
    """
    counts = np.ones((1, len(answers.novel)), dtype=np.uint16) if images is None else images
    found: dict[str, Floats] = {}
    halves = {"base": ~answers.novel, "novel": answers.novel, "all": np.ones_like(answers.novel)}
    for prefix, right in (("", answers.own), ("open_", answers.open)):
        for half, mask in halves.items():
            found[prefix + half] = _shares(right[:, mask], counts[:, mask])
        found[prefix + "hm"] = harmonic_mean(found[prefix + "base"], found[prefix + "novel"])
    return {name: found[name] for name in METRICS}


def _shares(right: npt.NDArray[np.bool_], counts: npt.NDArray[np.uint16]) -> Floats:
    """Per cent right of the images taken: (S, P), (R, P) -> (R, S). A few draws at a time, to bound the memory."""
    weights = right.T.astype(np.float64)
    starts = range(0, len(counts), DRAWS_AT_ONCE)
    hits = np.concatenate([counts[i : i + DRAWS_AT_ONCE].astype(np.float64) @ weights for i in starts])
    total = counts.sum(axis=1, dtype=np.float64)[:, None]
    shares: Floats = np.divide(100 * hits, total, out=np.full_like(hits, np.nan), where=total > 0)
    return shares


def arm_metrics(answers: Answers, draws: Draws) -> dict[str, tuple[Floats, Floats]]:
    """Each metric of an arm: of every seed (S,), and the mean in every draw (R,). One run stands for every seed.

    Images and seeds are drawn apart and their deviations added. Drawing both at once would count twice what a seed
    answers differently by chance: in the spread between seeds, and again in the images drawn for each of them.
    """
    runs, drawn = run_metrics(answers), run_metrics(answers, draws.images)
    if len(answers.own) == 1:
        return {name: (runs[name][0], drawn[name][:, 0]) for name in METRICS}
    tilt = draws.seeds - 1 / len(answers.own)
    return {name: (runs[name][0], drawn[name].mean(axis=1) + tilt @ runs[name][0]) for name in METRICS}


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it."""

    estimate: Number
    low: Number
    high: Number


def interval(estimate: float, draws: Floats, level: float) -> Interval:
    """The percentile interval over draws (R,), infinite draws included."""
    edge = (1 - level) / 2
    low, high = np.quantile(draws, [edge, 1 - edge], method="inverted_cdf")  # never mixes a number with infinity
    return Interval(float(estimate), float(low), float(high))


def difference(first: Answers, second: Answers, draws: Draws, level: float = 0.95) -> Mapping[str, Interval]:
    """The first arm minus the second, in points, for every metric.

    Args:
        first, second: the arms' answers; runs of both in the same order of seeds, or one run for all seeds.
        draws: see `make_draws`.
        level: coverage of the intervals: percentiles over the draws.
    """
    assert np.array_equal(first.novel, second.novel), "both arms answer about the same images"
    ours, theirs = arm_metrics(first, draws), arm_metrics(second, draws)
    return {
        name: interval((ours[name][0] - theirs[name][0]).mean(), ours[name][1] - theirs[name][1], level)
        for name in METRICS
    }


@dataclass(frozen=True)
class Series:
    """The errors of one arm and metric over its amounts, in points (100 - accuracy).

    Attributes:
        amounts: (A,) images per class, ascending.
        errors: (S, A) of each seed.
        draws: (R, A) mean over seeds in each draw of seeds and images; the same draws for every arm.
    """

    amounts: Sequence[int]
    errors: Floats
    draws: Floats

    @property
    def means(self) -> Floats:
        """(A,) over seeds."""
        return np.asarray(self.errors.mean(axis=0))
