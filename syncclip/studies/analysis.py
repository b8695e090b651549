"""Scaling curves, data efficiency and paired comparisons, computed from the predictions of finished runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import get_args

import numpy as np

from syncclip.evaluation.metrics import METRICS
from syncclip.evaluation.predict import PREDICTIONS, Predictions
from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies.grid import Cell
from syncclip.studies.outputs import Comparison, DataEfficiency, Fits
from syncclip.studies.statistics.bootstrap import (
    Differences,
    Resampled,
    Resamples,
    Unit,
    configuration_metrics,
    differences,
    make_resamples,
)
from syncclip.studies.statistics.data_efficiency import Exchange, GapClosed, exchange, gap_closed, marginal
from syncclip.studies.statistics.metrics import Outcomes
from syncclip.studies.statistics.scaling_fit import MIN_AMOUNTS, Series, fit_curve, held_out
from syncclip.training.run_folder import RunFolder

SHOTS = "dataset.shots"
BOOTSTRAP_SEED = 20231205
"""Seed for resampling, fixed to make repeated analyses byte-identical."""

REAL_ONLY_METHOD = {"syncclip": "ivlp"}
"""Method -> equivalent method for training on real images only."""

Point = tuple[Configuration, int | None]
"""Configuration and number of synthetic images per class; the number is None without synthetic images."""
Pair = tuple[Point, Point]
"""Points of a configuration and of its baseline."""


@dataclass(frozen=True)
class Evidence:
    """Outcomes of all finished runs.

    Attributes:
        cells: (configuration, images per class, seed) -> outcomes of the run on each dataset.
    """

    configurations: Sequence[Configuration]
    cells: Mapping[tuple[str, int | None, int | None], tuple[Outcomes, ...]]
    _metrics: dict[Hashable, Resampled] = field(default_factory=dict, repr=False, compare=False)
    _resamples: dict[Hashable, Resamples] = field(default_factory=dict, repr=False, compare=False)

    def points(self, configuration: Configuration) -> list[Point]:
        """Return the points of a configuration with finished runs, sorted by number of images."""
        amounts = {n for name, n, _ in self.cells if name == configuration.name}
        return [(configuration, n) for n in sorted(amounts, key=lambda n: n or 0)]

    def seeds(self, points: Iterable[Point]) -> list[int | None]:
        """List the seeds whose runs are finished at every point, in ascending order."""
        finished = [
            {seed for name, n, seed in self.cells if (name, n) == (configuration.name, at)}
            for configuration, at in points
        ]
        return sorted(set.intersection(*finished), key=lambda seed: seed or 0)

    def stack(self, point: Point, seeds: Sequence[int | None]) -> list[Outcomes]:
        """Stack the outcomes of several seeds at a point, by dataset; an untrained configuration has a single run."""
        configuration, n = point
        runs = [self.cells[configuration.name, n, seed] for seed in (seeds if configuration.trained else [None])]
        keys = ("within_split", "all_classes", "base_score")
        return [
            replace(parts[0], **{key: np.concatenate([getattr(part, key) for part in parts]) for key in keys})
            for parts in zip(*runs, strict=True)
        ]

    def resampled(self, point: Point, seeds: Sequence[int | None], unit: Unit, count: int) -> Resampled:
        """Return all metrics at a point (cached), for each seed and for `count` resamples shared by all points."""
        key = (point[0].name, point[1], *seeds, unit, count)
        if key not in self._metrics:
            outcomes = self.stack(point, seeds)
            metrics = configuration_metrics(outcomes, self._make_resamples(len(seeds), outcomes, unit, count))
            self._metrics[key] = {
                name: (np.broadcast_to(runs, len(seeds)), values) for name, (runs, values) in metrics.items()
            }
        return self._metrics[key]

    def _make_resamples(self, seeds: int, tested: Sequence[Outcomes], unit: Unit, count: int) -> Resamples:
        key = (seeds, unit, count, *((part.base, part.label.tobytes()) for part in tested))
        if key not in self._resamples:
            self._resamples.clear()  # an entry takes 200 MB for tens of thousands of images
            self._resamples[key] = make_resamples(seeds, tested, count, np.random.default_rng(BOOTSTRAP_SEED), unit)
        return self._resamples[key]


def gather(finished: Sequence[tuple[Cell, RunFolder]], configurations: Sequence[Configuration], base: int) -> Evidence:
    """Read the predictions of the finished runs on a dataset with `base` base classes."""
    cells = {}
    for cell, run in finished:
        rows = Predictions.read(run.path(PREDICTIONS), run.owner)
        within_split = rows.within_split_prediction == rows.label
        all_classes = rows.all_classes_prediction == rows.label
        outcomes = Outcomes(within_split[None], all_classes[None], rows.base_score[None], rows.label, base)
        cells[cell.configuration.name, cell.images_per_class, cell.seed] = (outcomes,)
    return Evidence(configurations, cells)


def joined(parts: Sequence[Evidence], configurations: Sequence[Configuration]) -> Evidence:
    """Combine the outcomes on a suite's datasets; runs that are not finished on every dataset are omitted."""
    keys = [key for key in parts[0].cells if all(key in part.cells for part in parts)]
    return Evidence(configurations, {key: tuple(part.cells[key][0] for part in parts) for key in keys})


def series(evidence: Evidence, settings: StudySettings) -> dict[str, dict[str, Series]]:
    """Return the errors of each configuration with synthetic images as {configuration: {metric: Series}}.

    If `origin` finds a counterpart without synthetic images, the series starts with it at 0 images. Only seeds
    with finished runs at every number of images are used, because all points of a curve must share few-shot samples.
    """
    result = {}
    for configuration in evidence.configurations:
        points = evidence.points(configuration) if configuration.synthetic else []
        amounts = [n for _, n in points if n]
        if points and (start := origin(evidence, configuration)) is not None:
            points, amounts = [(start, None), *points], [0, *amounts]
        if points and (seeds := evidence.seeds(point for point in points if point[0].trained)):
            result[configuration.name] = _series(evidence, points, seeds, amounts, settings.resamples)
    return result


def origin(evidence: Evidence, configuration: Configuration) -> Configuration | None:
    """Find a configuration's counterpart without synthetic images; return None if there is no counterpart.

    The counterpart is trained on the same shots with the same method, or with the equivalent in `REAL_ONLY_METHOD`. For
    a configuration without real images, the counterpart is the untrained configuration.
    """
    finished = [other for other in evidence.configurations if evidence.points(other)]
    if not configuration.real:
        return next((other for other in finished if not other.trained), None)
    shots = configuration.overrides.get(SHOTS)
    real_only = [
        other for other in finished if other.data == "real" and other.trained and other.overrides.get(SHOTS) == shots
    ]
    methods = (configuration.method, REAL_ONLY_METHOD.get(configuration.method))
    return next((other for method in methods for other in real_only if other.method == method), None)


def _series(
    evidence: Evidence, points: Sequence[Point], seeds: Sequence[int | None], amounts: Sequence[int], count: int
) -> dict[str, Series]:
    """Return a series for each metric that is defined at all points, with resamples of seeds and classes."""
    metrics = [evidence.resampled(point, seeds, "classes", count) for point in points]
    result = {}
    for name in METRICS:
        columns = zip(*(values[name] for values in metrics), strict=True)
        errors, resamples = (100 - np.stack(column, axis=1) for column in columns)
        if not np.isnan(errors).any():
            result[name] = Series(amounts, errors, resamples)
    return result


def fits(
    errors: Mapping[str, Mapping[str, Series]], settings: StudySettings, split: str, seen: Mapping[str, float]
) -> Fits:
    """Fit a scaling curve to each series, and compare the models by their held-out errors.

    Args:
        errors: result of `series`.
        seen: see `Fits`.
    """
    level = settings.confidence_level
    curves, models = {}, {}
    for configuration, metrics in errors.items():
        curves[configuration] = {
            metric: fit_curve(
                each, level, settings.forecast or [4 * each.amounts[-1], 16 * each.amounts[-1]], seen.get(configuration)
            )
            for metric, each in metrics.items()
        }
        if all(len(each.amounts) > MIN_AMOUNTS for each in metrics.values()):
            models[configuration] = {metric: held_out(each) for metric, each in metrics.items()}
    return Fits(level, settings.resamples, split, curves, models, seen)


def data_efficiency(
    evidence: Evidence,
    errors: Mapping[str, Mapping[str, Series]],
    settings: StudySettings,
    shots: int,
    images_per_hour: float | None,
    classes: int,
) -> DataEfficiency:
    """Compute the marginal value and the real-image equivalents of the reference configuration's synthetic images.

    Args:
        errors: result of `series`.
        shots: number of shots of configurations that do not override `dataset.shots`.
        images_per_hour: throughput of one generator; None if it was not measured.
        classes: number of classes that share the throughput.
    """
    reference = settings.reference_configuration.name
    return DataEfficiency(
        configuration=reference,
        confidence_level=settings.confidence_level,
        images_per_hour=images_per_hour,
        marginal={
            metric: marginal(each, images_per_hour, classes, settings.confidence_level)
            for metric, each in errors.get(reference, {}).items()
            if images_per_hour and len(each.amounts) >= MIN_AMOUNTS
        },
        exchange=exchanges(evidence, settings, shots),
        gap_closed=gaps_closed(evidence, settings, shots),
    )


def gaps_closed(evidence: Evidence, settings: StudySettings, shots: int) -> dict[str, GapClosed]:
    """Compute the share of the gap closed by the reference configuration, by metric, with intervals over classes.

    The gap lies between the reference's counterpart without synthetic images (see `origin`) and the upper bound of the
    same method with the same number of shots, preferably with the same overrides. The result is empty if one of them is
    missing. `shots` is the number of shots of configurations that do not override `dataset.shots`.
    """
    reference = settings.reference_configuration
    start = origin(evidence, reference) if reference.synthetic and reference.real else None
    upper_bound = _upper_bound(evidence, start, shots) if start is not None else None
    points = evidence.points(reference)
    if start is None or upper_bound is None or not points:
        return {}
    pairs = [(point, (start, None)) for point in [*points, (upper_bound, None)]]
    over = _differences(evidence, pairs, settings, "classes")[1]
    return {
        metric: gap_closed(start.name, upper_bound.name, each, settings.confidence_level)
        for metric, each in over.items()
    }


def _upper_bound(evidence: Evidence, start: Configuration, shots: int) -> Configuration | None:
    """Find the upper bound for a real-only configuration: same method and shots, on real images of all classes."""

    def key(configuration: Configuration) -> tuple[str, int]:
        return configuration.method, int(configuration.overrides.get(SHOTS, shots))

    matches = [
        other
        for other in evidence.configurations
        if other.data == "all_real" and key(other) == key(start) and evidence.points(other)
    ]
    default = {SHOTS: shots}
    same = (other for other in matches if default | other.overrides == default | start.overrides)
    return next(same, matches[0] if matches else None)


def exchanges(evidence: Evidence, settings: StudySettings, shots: int) -> dict[str, tuple[Exchange, ...]]:
    """Compute the real-image equivalents of the reference configuration's synthetic images, by metric.

    The result is empty unless a method was trained on real images only, with enough values of `dataset.shots` (set by
    overrides) to fit a power law. `shots` is the value that applies unless overridden.
    """
    reference, by_shots = settings.reference_configuration, _real_only_by_shots(evidence, shots)
    synthetic = evidence.points(reference) if reference.synthetic else []
    real = [(configuration, None) for configuration in by_shots.values()]
    if not synthetic or len(by_shots) < MIN_AMOUNTS or not (seeds := evidence.seeds([*synthetic, *real])):
        return {}
    mixed = _series(evidence, synthetic, seeds, [n for _, n in synthetic if n], settings.resamples)
    real_only = _series(evidence, real, seeds, list(by_shots), settings.resamples)
    own = int(reference.overrides.get(SHOTS, shots))
    return {
        metric: exchange(real_only[metric], mixed[metric], own, settings.confidence_level)
        for metric in mixed
        if metric in real_only
    }


def _real_only_by_shots(evidence: Evidence, shots: int) -> dict[int, Configuration]:
    """Return {shots: configuration on real images only}, sorted by shots, for the method with the most entries."""
    methods: dict[str, dict[int, Configuration]] = {}
    for configuration in evidence.configurations:
        if configuration.trained and configuration.data == "real" and evidence.points(configuration):
            by_shots = methods.setdefault(configuration.method, {})
            by_shots.setdefault(int(configuration.overrides.get(SHOTS, shots)), configuration)
    return dict(sorted(max(methods.values(), key=len, default={}).items()))


def compared_points(evidence: Evidence, settings: StudySettings) -> list[list[Pair]]:
    """List the points to compare, grouped by configuration and baseline.

    The reference is compared with the other configurations, and each configuration in `study.compare` with its
    baseline, at the same number of images; a configuration without synthetic images is compared at every number. The
    last group compares the reference at its largest number of images with itself at its smallest.
    """
    by_name = {configuration.name: configuration for configuration in evidence.configurations}
    reference = settings.reference_configuration.name
    named = [*((reference, name) for name in by_name if name != reference), *settings.compare]
    groups = [
        [
            (point, other)
            for point in evidence.points(by_name[name])
            for other in evidence.points(by_name[baseline])
            if point[1] == other[1] or None in (point[1], other[1])
        ]
        for name, baseline in dict.fromkeys(named)
        if name in by_name and baseline in by_name
    ]
    points = evidence.points(settings.reference_configuration)
    return [group for group in groups if group] + ([[(points[-1], points[0])]] if len(points) > 1 else [])


def comparisons(evidence: Evidence, settings: StudySettings) -> list[Comparison]:
    """Compare all `compared_points`; the last rows contain each group's difference, averaged over numbers of images.

    Each comparison uses the seeds whose runs are finished for both configurations; averages and simultaneous intervals
    use the seeds whose runs are finished at all numbers of images. There is one interval per `Unit`; datasets are
    resampled only in a suite.
    """
    rows: list[tuple[tuple[int, ...], list[Comparison]]] = []
    averages: list[Comparison] = []
    groups = compared_points(evidence, settings)
    suite = any(len(outcomes) > 1 for outcomes in evidence.cells.values())
    for unit_number, unit in enumerate(get_args(Unit)[: None if suite else 2]):
        for number, group in enumerate(groups):
            _, of_group = _differences(evidence, group, settings, unit)
            joint = {metric: each.simultaneous(settings.confidence_level) for metric, each in of_group.items()}
            for at, pair in enumerate(group):
                bounds = {metric: (intervals[at].low, intervals[at].high) for metric, intervals in joint.items()}
                compared = _compare(evidence, [pair], settings, unit, bounds)
                rows.append(((pair[0][1] or pair[1][1] or 0, number, unit_number), compared))
            if len(group) > 1:
                averages += _compare(evidence, group, settings, unit, {})
    rows.sort(key=itemgetter(0))
    return [row for _, compared in rows for row in compared] + averages


def _differences(
    evidence: Evidence, pairs: Sequence[Pair], settings: StudySettings, unit: Unit
) -> tuple[list[int | None], Mapping[str, Differences]]:
    """Return the seeds that are finished at all points, and the differences by metric; both may be empty."""
    points = [point for pair in pairs for point in pair]
    seeds = evidence.seeds([point for point in points if point[0].trained] or points)
    if not seeds:
        return [], {}
    resampled = [[evidence.resampled(point, seeds, unit, settings.resamples) for point in pair] for pair in pairs]
    return seeds, differences([(ours, theirs) for ours, theirs in resampled])


def _compare(
    evidence: Evidence,
    pairs: Sequence[Pair],
    settings: StudySettings,
    unit: Unit,
    bounds: Mapping[str, tuple[float, float]],
) -> list[Comparison]:
    """Return the difference between two configurations by metric, averaged if there are several pairs of points.

    Args:
        bounds: metric -> simultaneous interval, if available.
    """
    (configuration, n), (baseline, baseline_n) = pairs[0]
    seeds, compared = _differences(evidence, pairs, settings, unit)
    tested = [evidence.stack(point, seeds) for pair in pairs for point in pair] if seeds else []
    for parts in zip(*tested, strict=True):
        assert all(np.array_equal(each.label, parts[0].label) for each in parts), "all points must share test images"
    several = len(pairs) > 1
    return [
        Comparison(
            configuration=configuration.name,
            images_per_class=None if several else n,
            baseline=baseline.name,
            baseline_images_per_class=None if several else baseline_n,
            metric=metric,
            **vars(each.average(settings.confidence_level)),
            confidence_level=settings.confidence_level,
            seeds=len(seeds),
            images=sum(len(part.label) for part in tested[0]),
            unit=unit,
            smaller_split=min(min((~part.novel).sum(), part.novel.sum()) for part in tested[0]).item(),
            simultaneous_low=bounds.get(metric, (math.nan, math.nan))[0],
            simultaneous_high=bounds.get(metric, (math.nan, math.nan))[1],
            averaged_over=[ours[1] or theirs[1] or 0 for ours, theirs in pairs] if several else [],
        )
        for metric, each in compared.items()
    ]
