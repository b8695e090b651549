"""From the finished cells to the study's findings: scaling curves, worth, and paired comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from syncclip.evaluation.metrics import METRICS
from syncclip.evaluation.predict import PREDICTIONS, Predictions
from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies.grid import Cell
from syncclip.studies.outputs import Comparison, DataEfficiency, Fits
from syncclip.studies.statistics.bootstrap import Drawn, Draws, Unit, configuration_metrics, difference, make_draws
from syncclip.studies.statistics.data_efficiency import Exchange, exchange, marginal
from syncclip.studies.statistics.metrics import Answers
from syncclip.studies.statistics.scaling_fit import MIN_AMOUNTS, Series, fit_curve, held_out
from syncclip.training.run_folder import RunFolder

SHOTS = "dataset.shots"
BOOTSTRAP_SEED = 20231205
"""The draws of an analysis are always the same, so repeating it gives the same file."""

ON_REAL_ALONE = {"syncclip": "ivlp"}
"""Method -> what it is on real images alone."""

Point = tuple[Configuration, int | None]
"""A configuration at an amount of images per class; None where it learns from no synthetic ones."""


@dataclass(frozen=True)
class Evidence:
    """The answers of every finished cell.

    Attributes:
        configurations: the study's configurations, in its order.
        cells: (configuration name, images per class, seed) -> the answers of that one run, on each of the datasets.
    """

    configurations: Sequence[Configuration]
    cells: Mapping[tuple[str, int | None, int | None], tuple[Answers, ...]]
    _drawn: dict[Hashable, Drawn] = field(default_factory=dict, repr=False, compare=False)
    _made: dict[Hashable, Draws] = field(default_factory=dict, repr=False, compare=False)

    def points(self, configuration: Configuration) -> list[Point]:
        """The configuration at each amount of which a cell is finished, ascending."""
        amounts = {n for name, n, _ in self.cells if name == configuration.name}
        return [(configuration, n) for n in sorted(amounts, key=lambda n: n or 0)]

    def seeds(self, points: Iterable[Point]) -> list[int | None]:
        """The seeds finished at every one of some points, ascending."""
        found = [
            {seed for name, n, seed in self.cells if (name, n) == (configuration.name, at)}
            for configuration, at in points
        ]
        return sorted(set.intersection(*found), key=lambda seed: seed or 0)

    def stack(self, point: Point, seeds: Sequence[int | None]) -> list[Answers]:
        """The answers of several seeds as one, for each dataset; an untrained configuration's one run stands for
        all."""
        configuration, amount = point
        runs = [self.cells[configuration.name, amount, seed] for seed in (seeds if configuration.trained else [None])]
        return [
            replace(
                of_dataset[0],
                own=np.concatenate([run.own for run in of_dataset]),
                open=np.concatenate([run.open for run in of_dataset]),
                base_score=np.concatenate([run.base_score for run in of_dataset]),
            )
            for of_dataset in zip(*runs, strict=True)
        ]

    def drawn(self, point: Point, seeds: Sequence[int | None], unit: Unit, count: int) -> Drawn:
        """Every metric at a point, of each seed and in `count` draws of seeds and unit; worked out once.

        The draws are the same for every point, so what two of them share cancels in their difference.
        """
        key = (point[0].name, point[1], *seeds, unit, count)
        if key not in self._drawn:
            answers = self.stack(point, seeds)
            found = configuration_metrics(answers, self._draws(len(seeds), answers, unit, count)).items()
            self._drawn[key] = {name: (np.broadcast_to(runs, len(seeds)), drawn) for name, (runs, drawn) in found}
        return self._drawn[key]

    def _draws(self, seeds: int, answers: Sequence[Answers], unit: Unit, count: int) -> Draws:
        key = (seeds, unit, count, *((one.base, one.label.tobytes()) for one in answers))
        if key not in self._made:
            self._made.clear()  # of tens of thousands of images each takes 200 MB
            self._made[key] = make_draws(seeds, answers, count, np.random.default_rng(BOOTSTRAP_SEED), unit)
        return self._made[key]


def gather(finished: Sequence[tuple[Cell, RunFolder]], configurations: Sequence[Configuration], base: int) -> Evidence:
    """Read the predictions of finished cells of one dataset.

    Args:
        finished: each cell with its run's folder.
        base: the dataset's number of base classes.
    """
    return Evidence(
        configurations,
        {(cell.configuration.name, cell.images_per_class, cell.seed): (_answers(run, base),) for cell, run in finished},
    )


def joined(parts: Sequence[Evidence], configurations: Sequence[Configuration]) -> Evidence:
    """The evidence of several datasets as one's: of the cells that have ended on each of them."""
    whole = [key for key in parts[0].cells if all(key in part.cells for part in parts)]
    return Evidence(configurations, {key: tuple(one for part in parts for one in part.cells[key]) for key in whole})


def _answers(run: RunFolder, base: int) -> Answers:
    found = Predictions.read(run.path(PREDICTIONS), run.owner)
    half, opened = found.within_split_prediction == found.label, found.all_classes_prediction == found.label
    return Answers(half[None], opened[None], found.base_score[None], found.label, base)


def series(evidence: Evidence, settings: StudySettings) -> dict[str, dict[str, Series]]:
    """The errors of every configuration that learns from synthetic images, for every metric: {configuration:
    {metric: Series}}.

    A series begins at 0 images with the configuration that does without them, where there is one. Only seeds
    finished at every
    amount count, so that all points of a curve stand on the same shots.
    """
    found = {}
    for configuration in evidence.configurations:
        points = evidence.points(configuration) if configuration.synthetic else []
        amounts = [n for _, n in points if n]
        if points and (begin := origin(evidence, configuration)) is not None:
            points, amounts = [(begin, None), *points], [0, *amounts]
        if points and (seeds := evidence.seeds(point for point in points if point[0].trained)):
            found[configuration.name] = _series(evidence, points, seeds, amounts, settings.resamples)
    return found


def origin(evidence: Evidence, configuration: Configuration) -> Configuration | None:
    """The configuration that shows what a configuration reaches without synthetic images: of the same shots and of
    the same method, or of
    the one that this method is on real images alone; the untrained one for a configuration without real images."""
    if not configuration.real:
        return next((one for one in evidence.configurations if not one.trained and evidence.points(one)), None)
    alone = [
        one
        for one in evidence.configurations
        if one.data == "real" and one.trained and evidence.points(one)
        and one.overrides.get(SHOTS) == configuration.overrides.get(SHOTS)
    ]  # fmt: skip
    methods = (configuration.method, ON_REAL_ALONE.get(configuration.method))
    return next((one for method in methods for one in alone if one.method == method), None)


def _series(
    evidence: Evidence, points: Sequence[Point], seeds: Sequence[int | None], amounts: Sequence[int], count: int
) -> dict[str, Series]:
    """A series for each metric that all points have, with so many draws of seeds and classes."""
    configurations = [evidence.drawn(point, seeds, "classes", count) for point in points]
    return {
        metric: Series(
            amounts,
            *(
                100 - np.stack(columns, axis=1)
                for columns in zip(*(configuration[metric] for configuration in configurations), strict=True)
            ),
        )
        for metric in METRICS
        if not any(np.isnan(configuration[metric][0]).any() for configuration in configurations)
    }


def fits(
    found: Mapping[str, Mapping[str, Series]], settings: StudySettings, split: str, seen: Mapping[str, float]
) -> Fits:
    """The scaling curve of every series, and of those with amounts to hold out which model predicts best.

    Args:
        seen: of each configuration the share of the synthetic images that its trainings at the largest amount have
        shown.
    """
    curves = {
        configuration: {
            metric: fit_curve(
                one,
                settings.confidence_level,
                settings.forecast or [4 * one.amounts[-1], 16 * one.amounts[-1]],
                seen.get(configuration),
            )
            for metric, one in metrics.items()
        }
        for configuration, metrics in found.items()
    }
    models = {
        configuration: {metric: held_out(one) for metric, one in metrics.items()}
        for configuration, metrics in found.items()
        if all(len(one.amounts) > MIN_AMOUNTS for one in metrics.values())
    }
    return Fits(settings.confidence_level, settings.resamples, split, curves, models, seen)


def worth(
    evidence: Evidence,
    found: Mapping[str, Mapping[str, Series]],
    settings: StudySettings,
    shots: int,
    images_per_hour: float | None,
    classes: int,
) -> DataEfficiency:
    """What the focus configuration's images are worth: in points per hour of generation, where the speed is known,
    and in real
    images, where configurations with several numbers of shots show it.

    Args:
        found: as `series` returns them.
        shots: of the configurations that override nothing.
        images_per_hour: of one generator.
        classes: that share the hour's images.
    """
    reference = found.get(settings.reference_configuration.name, {}) if images_per_hour else {}
    return DataEfficiency(
        configuration=settings.reference_configuration.name,
        confidence_level=settings.confidence_level,
        images_per_hour=images_per_hour,
        marginal={
            metric: marginal(one, images_per_hour or 0.0, classes, settings.confidence_level)
            for metric, one in reference.items()
            if len(one.amounts) >= MIN_AMOUNTS
        },
        exchange=exchanges(evidence, settings, shots),
    )


def exchanges(evidence: Evidence, settings: StudySettings, shots: int) -> dict[str, tuple[Exchange, ...]]:
    """What the focus configuration's synthetic images are worth in real ones, for every metric.

    Empty unless a method learned from real images alone with as many numbers of shots (`dataset.shots` in the
    configurations'
    overrides) as a law needs.

    Args:
        shots: of the configurations that override nothing.
    """
    reference, grown = settings.reference_configuration, _grown_by_shots(evidence, shots)
    synthetic = evidence.points(reference) if reference.synthetic else []
    real = [(configuration, None) for configuration in grown.values()]
    if not synthetic or len(grown) < MIN_AMOUNTS or not (seeds := evidence.seeds([*synthetic, *real])):
        return {}
    mixed = _series(evidence, synthetic, seeds, [n for _, n in synthetic if n], settings.resamples)
    alone = _series(evidence, real, seeds, list(grown), settings.resamples)
    own = int(reference.overrides.get(SHOTS, shots))
    return {
        metric: exchange(alone[metric], mixed[metric], own, settings.confidence_level)
        for metric in mixed
        if metric in alone
    }


def _grown_by_shots(evidence: Evidence, shots: int) -> dict[int, Configuration]:
    """Shots, ascending -> the configuration that learned from so many real images alone, of the method with most
    such configurations."""
    methods: dict[str, dict[int, Configuration]] = {}
    for configuration in evidence.configurations:
        if configuration.trained and configuration.data == "real" and evidence.points(configuration):
            methods.setdefault(configuration.method, {}).setdefault(
                int(configuration.overrides.get(SHOTS, shots)), configuration
            )
    return dict(sorted(max(methods.values(), key=len, default={}).items()))


def comparisons(evidence: Evidence, settings: StudySettings) -> list[Comparison]:
    """The focus configuration baseline every other at each of its amounts, and baseline itself at its smallest amount.

    A configuration without amounts is held baseline every amount; the pairs use the seeds that both configurations
    have finished. Each
    has an interval over seeds and images, one over seeds and classes, and with several datasets one over these.
    """
    reference = settings.reference_configuration
    points = evidence.points(reference)
    pairs = [
        (point, other)
        for point in points
        for configuration in evidence.configurations
        for other in evidence.points(configuration)
        if configuration.name != reference.name and other[1] in (None, point[1])
    ]
    if len(points) > 1:
        pairs.append((points[-1], points[0]))
    found = []
    for point, other in pairs:
        seeds = evidence.seeds([point, other] if other[0].trained else [point])
        if not seeds:
            continue
        first, second = evidence.stack(point, seeds), evidence.stack(other, seeds)
        for one, its in zip(first, second, strict=True):
            assert np.array_equal(one.label, its.label), "both configurations answer about the same images"
        for unit in get_args(Unit)[: 2 if len(first) == 1 else None]:
            ours, theirs = (evidence.drawn(at, seeds, unit, settings.resamples) for at in (point, other))
            for metric, interval in difference(ours, theirs, settings.confidence_level).items():
                found.append(
                    Comparison(
                        configuration=reference.name,
                        images_per_class=point[1],
                        baseline=other[0].name,
                        baseline_images_per_class=other[1],
                        metric=metric,
                        **vars(interval),
                        confidence_level=settings.confidence_level,
                        seeds=len(seeds),
                        images=sum(len(one.label) for one in first),
                        smaller_split=min(min((~one.novel).sum(), one.novel.sum()) for one in first).item(),
                        unit=unit,
                    )
                )
    return found
