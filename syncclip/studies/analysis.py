"""From the finished cells to the study's findings: scaling curves, worth, and paired comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from syncclip import storage
from syncclip.evaluation.metrics import METRICS
from syncclip.evaluation.predict import PREDICTIONS, Predictions
from syncclip.recipe.study import Arm, StudySettings
from syncclip.studies.bootstrap import Answers, Series, arm_metrics, difference, make_draws
from syncclip.studies.fit import MIN_AMOUNTS, fit_curve, held_out
from syncclip.studies.grid import Cell
from syncclip.studies.outputs import Comparison, Fits
from syncclip.studies.worth import Exchange, exchange

SHOTS = "dataset.shots"
BOOTSTRAP_SEED = 20231205
"""The draws of an analysis are always the same, so repeating it gives the same file."""


Point = tuple[Arm, int | None]
"""An arm at an amount of images per class; None where it learns from no synthetic ones."""


@dataclass(frozen=True)
class Evidence:
    """The answers of every finished cell.

    Attributes:
        arms: the study's arms, in its order.
        cells: (arm name, images per class, seed) -> the answers of that one run.
    """

    arms: Sequence[Arm]
    cells: Mapping[tuple[str, int | None, int | None], Answers]

    def points(self, arm: Arm) -> list[Point]:
        """The arm at each amount of which a cell is finished, ascending."""
        amounts = {n for name, n, _ in self.cells if name == arm.name}
        return [(arm, n) for n in sorted(amounts, key=lambda n: n or 0)]

    def seeds(self, points: Iterable[Point]) -> list[int | None]:
        """The seeds finished at every one of some points, ascending."""
        found = [{seed for name, n, seed in self.cells if (name, n) == (arm.name, at)} for arm, at in points]
        return sorted(set.intersection(*found), key=lambda seed: seed or 0)

    def stack(self, point: Point, seeds: Sequence[int | None]) -> Answers:
        """The answers of several seeds as one; an untrained arm's one run stands for all."""
        arm, amount = point
        runs = [self.cells[arm.name, amount, seed] for seed in (seeds if arm.trained else [None])]
        return Answers(
            own=np.concatenate([run.own for run in runs]),
            open=np.concatenate([run.open for run in runs]),
            novel=runs[0].novel,
        )


def gather(finished: Sequence[tuple[Cell, str]], arms: Sequence[Arm], base: int) -> Evidence:
    """Read the predictions of finished cells, given with their folders; `base` is the number of base classes."""
    cells = {}
    for cell, url in finished:
        found = Predictions.read(storage.join(url, PREDICTIONS))
        half, opened = found.half_prediction == found.label, found.open_prediction == found.label
        cells[cell.arm.name, cell.images_per_class, cell.seed] = Answers(half[None], opened[None], found.label >= base)
    return Evidence(arms, cells)


def series(evidence: Evidence, settings: StudySettings) -> dict[str, dict[str, Series]]:
    """The errors of every arm that learns from synthetic images, for every metric: {arm: {metric: Series}}.

    Only seeds finished at every amount count, so that all points of a curve stand on the same shots.
    """
    found = {}
    for arm in evidence.arms:
        points = evidence.points(arm) if arm.synthetic else []
        if points and (seeds := evidence.seeds(points)):
            found[arm.name] = _series(evidence, points, seeds, [n for _, n in points if n], settings.draws)
    return found


def _series(
    evidence: Evidence, points: Sequence[Point], seeds: Sequence[int | None], amounts: Sequence[int], count: int
) -> dict[str, Series]:
    """A series for each metric that all points have, with so many draws."""
    stacks = [evidence.stack(point, seeds) for point in points]
    draws = make_draws(len(seeds), stacks[0].novel, count, np.random.default_rng(BOOTSTRAP_SEED))
    arms = [arm_metrics(answers, draws) for answers in stacks]
    return {
        metric: Series(
            amounts, *(100 - np.stack(columns, axis=1) for columns in zip(*(arm[metric] for arm in arms), strict=True))
        )
        for metric in METRICS
        if not any(np.isnan(arm[metric][0]).any() for arm in arms)
    }


def fits(found: Mapping[str, Mapping[str, Series]], settings: StudySettings, split: str) -> Fits:
    """The scaling curve of every series, and of those with amounts to hold out which model predicts best."""
    curves = {
        arm: {
            metric: fit_curve(one, settings.level, settings.forecast or [4 * one.amounts[-1], 16 * one.amounts[-1]])
            for metric, one in metrics.items()
        }
        for arm, metrics in found.items()
    }
    models = {
        arm: {metric: held_out(one) for metric, one in metrics.items()}
        for arm, metrics in found.items()
        if all(len(one.amounts) > MIN_AMOUNTS for one in metrics.values())
    }
    return Fits(settings.level, settings.draws, split, curves, models)


def exchanges(evidence: Evidence, settings: StudySettings, shots: int) -> dict[str, tuple[Exchange, ...]]:
    """What the focus arm's synthetic images are worth in real ones, for every metric.

    Empty unless a method learned from real images alone with three or more numbers of shots (`dataset.shots` in
    the arms' overrides).

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
        if arm.trained and not arm.synthetic and evidence.points(arm):
            methods.setdefault(arm.method, {}).setdefault(int(arm.overrides.get(SHOTS, shots)), arm)
    return dict(sorted(max(methods.values(), key=len, default={}).items()))


def comparisons(evidence: Evidence, settings: StudySettings) -> list[Comparison]:
    """The focus arm against every other at each of its amounts, and against itself at its smallest amount.

    An arm without amounts is held against every amount; the pairs use the seeds that both arms have finished.
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
        draws = make_draws(len(seeds), first.novel, settings.draws, np.random.default_rng(BOOTSTRAP_SEED))
        for metric, interval in difference(first, second, draws, settings.level).items():
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
                    images=len(first.novel),
                )
            )
    return found
