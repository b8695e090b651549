"""From the finished cells to the study's findings: scaling curves, worth, and paired comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from syncclip.evaluation.metrics import METRICS
from syncclip.evaluation.predict import PREDICTIONS, Predictions
from syncclip.recipe.study import Arm, StudySettings
from syncclip.studies.grid import Cell
from syncclip.studies.outputs import Comparison, Fits, Worth
from syncclip.studies.statistics.bootstrap import Drawn, Draws, Unit, arm_metrics, difference, make_draws
from syncclip.studies.statistics.data_efficiency import Exchange, exchange, marginal
from syncclip.studies.statistics.metrics import Answers
from syncclip.studies.statistics.scaling_fit import MIN_AMOUNTS, Series, fit_curve, held_out
from syncclip.training.run_folder import RunFolder

SHOTS = "dataset.shots"
BOOTSTRAP_SEED = 20231205
"""The draws of an analysis are always the same, so repeating it gives the same file."""

ON_REAL_ALONE = {"syncclip": "ivlp"}
"""Method -> what it is on real images alone."""

Point = tuple[Arm, int | None]
"""An arm at an amount of images per class; None where it learns from no synthetic ones."""


@dataclass(frozen=True)
class Evidence:
    """The answers of every finished cell.

    Attributes:
        arms: the study's arms, in its order.
        cells: (arm name, images per class, seed) -> the answers of that one run, on each of the datasets.
    """

    arms: Sequence[Arm]
    cells: Mapping[tuple[str, int | None, int | None], tuple[Answers, ...]]
    _drawn: dict[Hashable, Drawn] = field(default_factory=dict, repr=False, compare=False)
    _made: dict[Hashable, Draws] = field(default_factory=dict, repr=False, compare=False)

    def points(self, arm: Arm) -> list[Point]:
        """The arm at each amount of which a cell is finished, ascending."""
        amounts = {n for name, n, _ in self.cells if name == arm.name}
        return [(arm, n) for n in sorted(amounts, key=lambda n: n or 0)]

    def seeds(self, points: Iterable[Point]) -> list[int | None]:
        """The seeds finished at every one of some points, ascending."""
        found = [{seed for name, n, seed in self.cells if (name, n) == (arm.name, at)} for arm, at in points]
        return sorted(set.intersection(*found), key=lambda seed: seed or 0)

    def stack(self, point: Point, seeds: Sequence[int | None]) -> list[Answers]:
        """The answers of several seeds as one, for each dataset; an untrained arm's one run stands for all."""
        arm, amount = point
        runs = [self.cells[arm.name, amount, seed] for seed in (seeds if arm.trained else [None])]
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
            found = arm_metrics(answers, self._draws(len(seeds), answers, unit, count)).items()
            self._drawn[key] = {name: (np.broadcast_to(runs, len(seeds)), drawn) for name, (runs, drawn) in found}
        return self._drawn[key]

    def _draws(self, seeds: int, answers: Sequence[Answers], unit: Unit, count: int) -> Draws:
        key = (seeds, unit, count, *((one.base, one.label.tobytes()) for one in answers))
        if key not in self._made:
            self._made.clear()  # of tens of thousands of images each takes 200 MB
            self._made[key] = make_draws(seeds, answers, count, np.random.default_rng(BOOTSTRAP_SEED), unit)
        return self._made[key]


def gather(finished: Sequence[tuple[Cell, RunFolder]], arms: Sequence[Arm], base: int) -> Evidence:
    """Read the predictions of finished cells of one dataset.

    Args:
        finished: each cell with its run's folder.
        base: the dataset's number of base classes.
    """
    return Evidence(
        arms,
        {(cell.arm.name, cell.images_per_class, cell.seed): (_answers(run, base),) for cell, run in finished},
    )


def joined(parts: Sequence[Evidence], arms: Sequence[Arm]) -> Evidence:
    """The evidence of several datasets as one's: of the cells that have ended on each of them."""
    whole = [key for key in parts[0].cells if all(key in part.cells for part in parts)]
    return Evidence(arms, {key: tuple(one for part in parts for one in part.cells[key]) for key in whole})


def _answers(run: RunFolder, base: int) -> Answers:
    found = Predictions.read(run.path(PREDICTIONS), run.owner)
    half, opened = found.half_prediction == found.label, found.open_prediction == found.label
    return Answers(half[None], opened[None], found.base_score[None], found.label, base)


def series(evidence: Evidence, settings: StudySettings) -> dict[str, dict[str, Series]]:
    """The errors of every arm that learns from synthetic images, for every metric: {arm: {metric: Series}}.

    A series begins at 0 images with the arm that does without them, where there is one. Only seeds finished at every
    amount count, so that all points of a curve stand on the same shots.
    """
    found = {}
    for arm in evidence.arms:
        points = evidence.points(arm) if arm.synthetic else []
        amounts = [n for _, n in points if n]
        if points and (begin := origin(evidence, arm)) is not None:
            points, amounts = [(begin, None), *points], [0, *amounts]
        if points and (seeds := evidence.seeds(point for point in points if point[0].trained)):
            found[arm.name] = _series(evidence, points, seeds, amounts, settings.draws)
    return found


def origin(evidence: Evidence, arm: Arm) -> Arm | None:
    """The arm that shows what an arm reaches without synthetic images: of the same shots and of the same method, or of
    the one that this method is on real images alone; the untrained one for an arm without real images."""
    if not arm.real:
        return next((one for one in evidence.arms if not one.trained and evidence.points(one)), None)
    alone = [
        one
        for one in evidence.arms
        if one.data == "real" and one.trained and evidence.points(one)
        and one.overrides.get(SHOTS) == arm.overrides.get(SHOTS)
    ]  # fmt: skip
    methods = (arm.method, ON_REAL_ALONE.get(arm.method))
    return next((one for method in methods for one in alone if one.method == method), None)


def _series(
    evidence: Evidence, points: Sequence[Point], seeds: Sequence[int | None], amounts: Sequence[int], count: int
) -> dict[str, Series]:
    """A series for each metric that all points have, with so many draws of seeds and classes."""
    arms = [evidence.drawn(point, seeds, "classes", count) for point in points]
    return {
        metric: Series(
            amounts, *(100 - np.stack(columns, axis=1) for columns in zip(*(arm[metric] for arm in arms), strict=True))
        )
        for metric in METRICS
        if not any(np.isnan(arm[metric][0]).any() for arm in arms)
    }


def fits(
    found: Mapping[str, Mapping[str, Series]], settings: StudySettings, split: str, seen: Mapping[str, float]
) -> Fits:
    """The scaling curve of every series, and of those with amounts to hold out which model predicts best.

    Args:
        seen: of each arm the share of the synthetic images that its trainings at the largest amount have shown.
    """
    curves = {
        arm: {
            metric: fit_curve(
                one, settings.level, settings.forecast or [4 * one.amounts[-1], 16 * one.amounts[-1]], seen.get(arm)
            )
            for metric, one in metrics.items()
        }
        for arm, metrics in found.items()
    }
    models = {
        arm: {metric: held_out(one) for metric, one in metrics.items()}
        for arm, metrics in found.items()
        if all(len(one.amounts) > MIN_AMOUNTS for one in metrics.values())
    }
    return Fits(settings.level, settings.draws, split, curves, models, seen)


def worth(
    evidence: Evidence,
    found: Mapping[str, Mapping[str, Series]],
    settings: StudySettings,
    shots: int,
    images_per_hour: float | None,
    classes: int,
) -> Worth:
    """What the focus arm's images are worth: in points per hour of generation, where the speed is known, and in real
    images, where arms with several numbers of shots show it.

    Args:
        found: as `series` returns them.
        shots: of the arms that override nothing.
        images_per_hour: of one generator.
        classes: that share the hour's images.
    """
    focus = found.get(settings.focus_arm.name, {}) if images_per_hour else {}
    return Worth(
        arm=settings.focus_arm.name,
        level=settings.level,
        images_per_hour=images_per_hour,
        marginal={
            metric: marginal(one, images_per_hour or 0.0, classes, settings.level)
            for metric, one in focus.items()
            if len(one.amounts) >= MIN_AMOUNTS
        },
        exchange=exchanges(evidence, settings, shots),
    )


def exchanges(evidence: Evidence, settings: StudySettings, shots: int) -> dict[str, tuple[Exchange, ...]]:
    """What the focus arm's synthetic images are worth in real ones, for every metric.

    Empty unless a method learned from real images alone with as many numbers of shots (`dataset.shots` in the arms'
    overrides) as a law needs.

    Args:
        shots: of the arms that override nothing.
    """
    focus, grown = settings.focus_arm, _grown_by_shots(evidence, shots)
    synthetic = evidence.points(focus) if focus.synthetic else []
    real = [(arm, None) for arm in grown.values()]
    if not synthetic or len(grown) < MIN_AMOUNTS or not (seeds := evidence.seeds([*synthetic, *real])):
        return {}
    mixed = _series(evidence, synthetic, seeds, [n for _, n in synthetic if n], settings.draws)
    alone = _series(evidence, real, seeds, list(grown), settings.draws)
    own = int(focus.overrides.get(SHOTS, shots))
    return {metric: exchange(alone[metric], mixed[metric], own, settings.level) for metric in mixed if metric in alone}


def _grown_by_shots(evidence: Evidence, shots: int) -> dict[int, Arm]:
    """Shots, ascending -> the arm that learned from so many real images alone, of the method with most such arms."""
    methods: dict[str, dict[int, Arm]] = {}
    for arm in evidence.arms:
        if arm.trained and arm.data == "real" and evidence.points(arm):
            methods.setdefault(arm.method, {}).setdefault(int(arm.overrides.get(SHOTS, shots)), arm)
    return dict(sorted(max(methods.values(), key=len, default={}).items()))


def comparisons(evidence: Evidence, settings: StudySettings) -> list[Comparison]:
    """The focus arm against every other at each of its amounts, and against itself at its smallest amount.

    An arm without amounts is held against every amount; the pairs use the seeds that both arms have finished. Each
    has an interval over seeds and images, one over seeds and classes, and with several datasets one over these.
    """
    focus = settings.focus_arm
    points = evidence.points(focus)
    pairs = [
        (point, other)
        for point in points
        for arm in evidence.arms
        for other in evidence.points(arm)
        if arm.name != focus.name and other[1] in (None, point[1])
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
            assert np.array_equal(one.label, its.label), "both arms answer about the same images"
        for unit in get_args(Unit)[: 2 if len(first) == 1 else None]:
            ours, theirs = (evidence.drawn(at, seeds, unit, settings.draws) for at in (point, other))
            for metric, interval in difference(ours, theirs, settings.level).items():
                found.append(
                    Comparison(
                        arm=focus.name,
                        images_per_class=point[1],
                        against=other[0].name,
                        against_images_per_class=other[1],
                        metric=metric,
                        **vars(interval),
                        level=settings.level,
                        seeds=len(seeds),
                        images=sum(len(one.label) for one in first),
                        smaller_half=min(min((~one.novel).sum(), one.novel.sum()) for one in first).item(),
                        unit=unit,
                    )
                )
    return found
