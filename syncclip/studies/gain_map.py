"""Map of gains: the effect of synthetic images at several levels of name knowledge, with its trend and sign change.

A level is one pretrained tag of the CLIP model. All levels have the same test images, classes and seeds, so their
resamples are shared, and differences between levels are paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import pandas as pd

from syncclip.evaluation.metrics import METRICS, Number
from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies import analysis
from syncclip.studies.analysis import Evidence
from syncclip.studies.statistics.bootstrap import DIFFERENCE, Floats, Interval, Resampled, differences, interval
from syncclip.studies.statistics.power import EQUIVALENT

Over = Literal["real", "zero-shot", "named", ""]
"""Kind of baseline: the counterpart on real images only (see `analysis.origin`), zero-shot CLIP, a configuration named
in `study.compare`, or none."""
Verdict = Literal["significant gain", "significant loss", "equivalent", "inconclusive", ""]
"""Conclusion from the interval of a gain; empty without a baseline."""

GRID = 201
"""Number of values of name knowledge at which a trend's band is evaluated."""


@dataclass(frozen=True)
class MapCell:
    """Metric of a configuration at one level, and the gain over a baseline in points, with an interval over classes.

    Attributes:
        pretrained: tag of the level.
        dataset: name of the dataset; empty for the average over all datasets.
        images_per_class: number of synthetic images; None without synthetic images, or for a mean over several numbers.
        baseline: name of the baseline configuration; empty without a baseline.
        value: metric in per cent, averaged over seeds.
        averaged_over: numbers of images over which the metric is averaged: those that all levels have in common; empty
            for a single number.
    """

    pretrained: str
    dataset: str
    configuration: str
    images_per_class: int | None
    over: Over
    baseline: str
    metric: str
    value: float
    gain: float
    low: float
    high: float
    verdict: Verdict
    seeds: int
    averaged_over: tuple[int, ...] = ()

    @property
    def averaged(self) -> bool:
        """Whether the metric is a mean over several numbers of images."""
        return bool(self.averaged_over)


@dataclass(frozen=True)
class Trend:
    """Linear trend of a gain over the levels, fitted by least squares to the average over all datasets.

    Attributes:
        pretrained: tags of the levels, in ascending order of name knowledge.
        slope: gain in points per unit of name knowledge.
        ends: fitted gain at the smallest and the largest measured name knowledge.
        crossing: name knowledge at which the line crosses zero; None outside the measured range.
        gain_range, loss_range: smallest and largest measured name knowledge at which the line's interval is above
            (below) zero; empty if there is none. Between the two ranges, the sign is inconclusive: these bounds are
            the confidence interval of the crossing, obtained by inverting the pointwise test.
        averaged_over: numbers of images over which the gain is averaged; empty for a single number.
    """

    configuration: str
    images_per_class: int | None
    over: Over
    baseline: str
    metric: str
    pretrained: tuple[str, ...]
    slope: Interval
    ends: tuple[Interval, ...]
    crossing: float | None
    gain_range: tuple[float, ...]
    loss_range: tuple[float, ...]
    seeds: int
    averaged_over: tuple[int, ...] = ()

    @property
    def averaged(self) -> bool:
        """Whether the gain is a mean over several numbers of images."""
        return bool(self.averaged_over)


@dataclass(frozen=True)
class MapSummary:
    """Content of map.json.

    Attributes:
        levels: tag -> name knowledge, averaged over datasets; NaN if unknown.
        datasets: tag -> dataset -> name knowledge.
        names: configuration name -> (method, data).
        novel_classes: number of tested novel classes, summed over the datasets.
        epochs_over: value of `training.epochs_over`, which determines the number of training steps.
    """

    confidence_level: float
    resamples: int
    split: str
    reference: str
    levels: Mapping[str, Number]
    datasets: Mapping[str, Mapping[str, Number]]
    names: Mapping[str, tuple[str, str]]
    novel_classes: int
    epochs_over: str
    trends: Sequence[Trend]


@dataclass(frozen=True)
class _Contrast:
    """Metrics of a configuration, and those of its baseline with the same seeds and resamples."""

    configuration: Configuration
    images_per_class: int | None
    averaged_over: tuple[int, ...]
    over: Over
    baseline: str
    seeds: int
    ours: Mapping[str, Resampled]
    """Metrics, keyed by the level's tag."""
    theirs: Mapping[str, Resampled]


def verdict(low: float, high: float) -> Verdict:
    """Classify a gain by its confidence interval, which is NaN without a baseline."""
    if math.isnan(low):
        return ""
    if low > 0 or high < 0:
        return "significant gain" if low > 0 else "significant loss"
    return "equivalent" if low > -EQUIVALENT and high < EQUIVALENT else "inconclusive"


def map_cells(levels: Mapping[str, Evidence], settings: StudySettings, datasets: Sequence[str]) -> list[MapCell]:
    """Compute all cells of the map, starting with those averaged over datasets.

    Args:
        levels: tag -> outcomes.
        datasets: names of a suite's datasets, in the order of the outcomes; empty for a single dataset.
    """
    views = {"": levels}
    for number, name in enumerate(datasets):
        views[name] = {tag: _of_dataset(evidence, number) for tag, evidence in levels.items()}
    return [
        cell
        for dataset, view in views.items()
        for contrast in _contrasts(view, settings)
        for cell in _cells(contrast, dataset, settings.confidence_level)
    ]


def trends(levels: Mapping[str, Evidence], knowledge: Mapping[str, float], settings: StudySettings) -> list[Trend]:
    """Fit a trend to each gain, averaged over datasets, across the levels whose name knowledge was measured.

    Args:
        knowledge: tag -> name knowledge. Trends require at least two different values.
    """
    result = []
    for contrast in _contrasts(levels, settings):
        measured = (tag for tag in contrast.theirs if math.isfinite(knowledge[tag]))
        tags = sorted(measured, key=knowledge.__getitem__)
        x = np.array([knowledge[tag] for tag in tags])
        if len(set(x.tolist())) < 2:
            continue
        for metric in METRICS:
            pairs = [(contrast.ours[tag][metric], contrast.theirs[tag][metric]) for tag in tags]
            estimates = np.array([(ours[0] - theirs[0]).mean() for ours, theirs in pairs])
            if np.isnan(estimates).any():
                continue
            line = _line(x, estimates, np.stack([ours[1] - theirs[1] for ours, theirs in pairs]), settings)
            keys = contrast.configuration.name, contrast.images_per_class, contrast.over, contrast.baseline, metric
            result.append(Trend(*keys, tuple(tags), **line, seeds=contrast.seeds, averaged_over=contrast.averaged_over))
    return result


def table(cells: Sequence[MapCell]) -> pd.DataFrame:
    """Return the cells as a table with one row per cell."""
    return pd.DataFrame([vars(cell) for cell in cells], columns=columns()).astype({"images_per_class": "Int64"})


def number_label(row: MapCell | Trend) -> str:
    """Format the number of images of a cell or trend: `4`, `mean of 1, 4, 16`, or empty without synthetic images."""
    if row.averaged_over:
        return f"mean of {', '.join(map(str, row.averaged_over))}"
    return str(row.images_per_class or "")


def columns() -> list[str]:
    """Return the names of the table's columns."""
    return [field.name for field in fields(MapCell)]


def _line(x: Floats, gains: Floats, resamples: Floats, settings: StudySettings) -> dict[str, Any]:
    """Fit a line to gains (L,) and their resamples (L, R) at name knowledge x (L,); see `Trend`."""
    fit = np.linalg.pinv(np.stack([np.ones_like(x), x], axis=1))
    (offset, slope), drawn = fit @ gains, fit @ resamples
    grid = np.linspace(x.min(), x.max(), GRID)
    level = settings.confidence_level
    edge = (1 - level) / 2
    values = drawn[0, :, None] + drawn[1, :, None] * grid
    low, high = np.quantile(values, [edge, 1 - edge], axis=0, method="inverted_cdf")
    crossing = -offset / slope if slope else math.nan
    return {
        "slope": interval(slope, drawn[1], level),
        "ends": tuple(
            interval(offset + slope * grid[end], values[:, end], settings.confidence_level, DIFFERENCE)
            for end in (0, -1)
        ),
        "crossing": float(crossing) if grid[0] <= crossing <= grid[-1] else None,
        "gain_range": _range(grid[low > 0]),
        "loss_range": _range(grid[high < 0]),
    }


def _range(values: Floats) -> tuple[float, ...]:
    return (float(values.min()), float(values.max())) if len(values) else ()


def _of_dataset(evidence: Evidence, number: int) -> Evidence:
    """Return the outcomes on one dataset of a suite."""
    return Evidence(evidence.configurations, {key: (parts[number],) for key, parts in evidence.cells.items()})


def _contrasts(levels: Mapping[str, Evidence], settings: StudySettings) -> Iterator[_Contrast]:
    """Yield the contrasts of each configuration with each of its baselines.

    A contrast at n images includes the levels at which both the configuration and its baseline are finished.
    If these levels have several numbers of images in common, the mean over these numbers follows. Each contrast uses
    the seeds that its levels have in common, so that they share the resamples.
    """
    every = {each.name: each for evidence in levels.values() for each in evidence.configurations}
    for configuration in every.values():
        finished = {tag: evidence for tag, evidence in levels.items() if evidence.points(configuration)}
        for over, baseline in _baselines(finished, configuration, settings):
            selected = {tag: each for tag, each in finished.items() if baseline is None or each.points(baseline)}
            numbers = {tag: _numbers(each, configuration, baseline) for tag, each in selected.items()}
            every_number = sorted({n for of_level in numbers.values() for n in of_level}, key=lambda n: n or 0)
            common = tuple(n for n in every_number if all(n in of_level for of_level in numbers.values()))
            for n in every_number:
                with_number = {tag: each for tag, each in selected.items() if n in numbers[tag]}
                yield from _contrast(with_number, configuration, (n,), over, baseline, settings.resamples)
            if len(common) > 1:
                yield from _contrast(selected, configuration, common, over, baseline, settings.resamples)


def _numbers(evidence: Evidence, configuration: Configuration, baseline: Configuration | None) -> list[int | None]:
    """Return the numbers of images at which a configuration and its baseline are finished."""
    numbers = [n for _, n in evidence.points(configuration)]
    if baseline is None or not baseline.synthetic:
        return numbers
    finished = [n for _, n in evidence.points(baseline)]
    return [n for n in numbers if n in finished]


def _contrast(
    levels: Mapping[str, Evidence],
    configuration: Configuration,
    numbers: Sequence[int | None],
    over: Over,
    baseline: Configuration | None,
    count: int,
) -> Iterator[_Contrast]:
    """Yield the contrast at one or averaged over several numbers of images; nothing if the levels share no seed."""
    points = [(configuration, n) for n in numbers]
    theirs_at = [(baseline, n) for n in (numbers if baseline.synthetic else [None])] if baseline is not None else []
    trained = [*points, *(point for point in theirs_at if point[0].trained)]
    of_levels = [{*evidence.seeds(trained)} for evidence in levels.values()]
    seeds = sorted(set.intersection(*of_levels), key=lambda seed: seed or 0)
    if not seeds:
        return
    theirs = {
        tag: _mean([evidence.resampled(point, seeds, "classes", count) for point in theirs_at])
        for tag, evidence in levels.items()
        if theirs_at
    }
    ours = {
        tag: _mean([evidence.resampled(point, seeds, "classes", count) for point in points])
        for tag, evidence in levels.items()
    }
    averaged_over = tuple(n for n in numbers if n is not None) if len(numbers) > 1 else ()
    n = None if averaged_over else numbers[0]
    name = "" if baseline is None else baseline.name
    yield _Contrast(configuration, n, averaged_over, over, name, len(seeds), ours, theirs)


def _baselines(
    levels: Mapping[str, Evidence], configuration: Configuration, settings: StudySettings
) -> list[tuple[Over, Configuration | None]]:
    """Return the baselines of a configuration with their kinds, or [("", None)] if there are none."""
    baselines: dict[Over, Configuration] = {}
    named: dict[str, Configuration] = {}
    for evidence in levels.values():
        if configuration.synthetic and (real := analysis.origin(evidence, configuration)) is not None and real.trained:
            baselines.setdefault("real", real)
        for other in evidence.configurations if configuration.trained else ():
            if not other.trained and evidence.points(other):
                baselines.setdefault("zero-shot", other)
        for other in evidence.configurations:
            if (configuration.name, other.name) in settings.compare and evidence.points(other):
                named.setdefault(other.name, other)
    for baseline in baselines.values():
        named.pop(baseline.name, None)
    return [*baselines.items(), *(("named", other) for other in named.values())] or ([("", None)] if levels else [])


def _mean(metrics: Sequence[Resampled]) -> Resampled:
    """Average the metrics at several numbers of images."""
    columns = {name: zip(*(each[name] for each in metrics), strict=True) for name in METRICS}
    return {
        name: (np.mean(list(runs), axis=0), np.mean(list(values), axis=0)) for name, (runs, values) in columns.items()
    }


def _cells(contrast: _Contrast, dataset: str, confidence_level: float) -> Iterator[MapCell]:
    for tag, ours in contrast.ours.items():
        theirs = contrast.theirs.get(tag)
        gains = {} if theirs is None else differences([(ours, theirs)])
        for metric in METRICS:
            value = float(ours[metric][0].mean())
            if math.isnan(value):
                continue
            unknown = Interval(math.nan, math.nan, math.nan)
            gain = gains[metric].average(confidence_level) if gains else unknown
            yield MapCell(
                pretrained=tag,
                dataset=dataset,
                configuration=contrast.configuration.name,
                images_per_class=contrast.images_per_class,
                over=contrast.over,
                baseline=contrast.baseline,
                metric=metric,
                value=value,
                gain=gain.estimate,
                low=gain.low,
                high=gain.high,
                verdict=verdict(gain.low, gain.high),
                seeds=contrast.seeds,
                averaged_over=contrast.averaged_over,
            )
