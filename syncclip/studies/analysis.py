"""From the finished cells to the study's findings: scaling curves, worth, and paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from syncclip import storage
from syncclip.evaluation.metrics import METRICS
from syncclip.evaluation.predict import PREDICTIONS, Predictions
from syncclip.recipe.study import Arm, StudySettings
from syncclip.studies.bootstrap import Answers, Floats, arm_draws, difference, make_draws, run_metrics
from syncclip.studies.fit import MIN_AMOUNTS, Curve, HeldOut, fit_curve, held_out
from syncclip.studies.grid import Cell
from syncclip.studies.outputs import Comparison
from syncclip.studies.worth import Exchange, exchange

SHOTS = "dataset.shots"
BOOTSTRAP_SEED = 20231205
"""The draws of an analysis are always the same, so repeating it gives the same file."""


def read_answers(cell_url: str, base: int) -> Answers:
    """What one run answered, from its predictions.

    Args:
        cell_url: the run's folder.
        base: number of base classes.
    """
    found = Predictions.read(storage.join(cell_url, PREDICTIONS))
    return Answers(
        own=(found.half_prediction == found.label)[None],
        open=(found.open_prediction == found.label)[None],
        novel=found.label >= base,
    )


@dataclass(frozen=True)
class Evidence:
    """The answers of every finished cell.

    Attributes:
        arms: the study's arms, in its order.
        cells: (arm name, images per class, seed) -> the answers of that one run.
    """

    arms: Sequence[Arm]
    cells: Mapping[tuple[str, int | None, int | None], Answers]

    def amounts(self, arm: Arm) -> list[int | None]:
        """The amounts at which the arm has a finished cell, ascending; [None] where it has no amounts."""
        found = {n for name, n, _ in self.cells if name == arm.name}
        return sorted(found, key=lambda n: n or 0)

    def seeds(self, arm: Arm, amount: int | None) -> set[int | None]:
        """The seeds finished for an arm at an amount."""
        return {seed for name, n, seed in self.cells if (name, n) == (arm.name, amount)}

    def stack(self, arm: Arm, amount: int | None, seeds: Sequence[int | None]) -> Answers:
        """The answers of several seeds as one; an untrained arm's one run stands for all."""
        runs = [self.cells[arm.name, amount, seed] for seed in (seeds if arm.trained else [None])]
        return Answers(
            own=np.concatenate([run.own for run in runs]),
            open=np.concatenate([run.open for run in runs]),
            novel=runs[0].novel,
        )


def gather(finished: Sequence[tuple[Cell, str]], arms: Sequence[Arm], base: int) -> Evidence:
    """Read the predictions of finished cells, given with their folders."""
    cells = {(cell.arm.name, cell.images_per_class, cell.seed): read_answers(url, base) for cell, url in finished}
    return Evidence(arms, cells)


@dataclass(frozen=True)
class Series:
    """The errors of one arm and metric over its amounts.

    Attributes:
        amounts: (A,) synthetic images per class, ascending.
        errors: (S, A) of each seed, in points (100 - accuracy).
        draws: (R, A) mean over seeds in each draw of seeds and images; the same draws for every arm.
    """

    amounts: list[int]
    errors: Floats
    draws: Floats

    @property
    def means(self) -> Floats:
        """(A,) over seeds."""
        mean: Floats = self.errors.mean(axis=0)
        return mean


def series(evidence: Evidence, settings: StudySettings) -> dict[str, dict[str, Series]]:
    """The errors of every arm that learns from synthetic images, for every metric: {arm: {metric: Series}}.

    Only seeds finished at every amount count, so that all points of a curve stand on the same shots.
    """
    found = {}
    for arm in evidence.arms:
        amounts = [n for n in evidence.amounts(arm) if n is not None]
        seeds = _ordered(set.intersection(*(evidence.seeds(arm, n) for n in amounts))) if amounts else []
        if seeds:
            found[arm.name] = _series([evidence.stack(arm, n, seeds) for n in amounts], amounts, settings.draws)
    return found


def _series(stacks: Sequence[Answers], amounts: Sequence[int], count: int) -> dict[str, Series]:
    draws = make_draws(len(stacks[0].own), stacks[0].novel, count, np.random.default_rng(BOOTSTRAP_SEED))
    runs = [run_metrics(answers) for answers in stacks]
    drawn = [arm_draws(answers, draws) for answers in stacks]
    return {
        metric: Series(
            list(amounts),
            100 - np.stack([run[metric][0] for run in runs], axis=1),
            100 - np.stack([draw[metric] for draw in drawn], axis=1),
        )
        for metric in METRICS
        if not any(np.isnan(run[metric]).any() for run in runs)
    }


def curves(found: Mapping[str, Mapping[str, Series]], settings: StudySettings) -> dict[str, dict[str, Curve]]:
    """The scaling curve of every series."""
    return {
        arm: {
            metric: fit_curve(
                one.amounts,
                one.errors,
                one.draws,
                settings.level,
                settings.forecast or [4 * one.amounts[-1], 16 * one.amounts[-1]],
            )
            for metric, one in metrics.items()
        }
        for arm, metrics in found.items()
    }


def models(found: Mapping[str, Mapping[str, Series]]) -> dict[str, dict[str, tuple[HeldOut, ...]]]:
    """Which model of the curve predicts best, for every series with amounts to hold out."""
    found_models = {
        arm: {metric: held_out(one.amounts, one.means, one.draws) for metric, one in metrics.items()}
        for arm, metrics in found.items()
    }
    return {arm: metrics for arm, metrics in found_models.items() if all(metrics.values())}


def exchanges(evidence: Evidence, settings: StudySettings, shots: int) -> dict[str, tuple[Exchange, ...]]:
    """What the focus arm's synthetic images are worth in real ones, for every metric.

    Empty unless a method learned from real images alone with three or more numbers of shots (`dataset.shots` in
    the arms' overrides).

    Args:
        shots: of the arms that override nothing.
    """
    focus, grown = settings.focus_arm, _grown_by_shots(evidence, shots)
    amounts = [n for n in evidence.amounts(focus) if n is not None]
    if not amounts or len(grown) < MIN_AMOUNTS:
        return {}
    seeds = _ordered(
        set.intersection(
            *(evidence.seeds(focus, n) for n in amounts), *(evidence.seeds(arm, None) for arm in grown.values())
        )
    )
    if not seeds:
        return {}
    mixed = _series([evidence.stack(focus, n, seeds) for n in amounts], amounts, settings.draws)
    real = _series([evidence.stack(arm, None, seeds) for arm in grown.values()], list(grown), settings.draws)
    own = int(focus.overrides.get(SHOTS, shots))
    return {
        metric: exchange(
            list(grown),
            (real[metric].means, real[metric].draws),
            amounts,
            (one.means, one.draws),
            own,
            settings.level,
        )
        for metric, one in mixed.items()
        if metric in real
    }


def _grown_by_shots(evidence: Evidence, shots: int) -> dict[int, Arm]:
    """Shots, ascending -> the arm that learned from so many real images alone, of the method with most such arms."""
    methods: dict[str, dict[int, Arm]] = {}
    for arm in evidence.arms:
        if arm.trained and not arm.synthetic and evidence.amounts(arm):
            methods.setdefault(arm.method, {}).setdefault(int(arm.overrides.get(SHOTS, shots)), arm)
    return dict(sorted(max(methods.values(), key=len, default={}).items()))


def comparisons(evidence: Evidence, settings: StudySettings) -> list[Comparison]:
    """The focus arm against every other at each of its amounts, and against itself at its smallest amount.

    An arm without amounts is held against every amount; the pairs use the seeds that both arms have finished.
    """
    focus = settings.focus_arm
    amounts = evidence.amounts(focus)
    pairs: list[tuple[int | None, Arm, int | None]] = []
    for amount in amounts:
        for arm in evidence.arms:
            against = amount if arm.synthetic else None
            if arm.name != focus.name and against in evidence.amounts(arm):
                pairs.append((amount, arm, against))
    if len(amounts) > 1:
        pairs.append((amounts[-1], focus, amounts[0]))
    found = []
    for amount, arm, against in pairs:
        seeds = evidence.seeds(focus, amount)
        if arm.trained:
            seeds = seeds & evidence.seeds(arm, against)
        ordered = _ordered(seeds)
        if not ordered:
            continue
        first, second = evidence.stack(focus, amount, ordered), evidence.stack(arm, against, ordered)
        draws = make_draws(len(ordered), first.novel, settings.draws, np.random.default_rng(BOOTSTRAP_SEED))
        for metric, interval in difference(first, second, draws, settings.level).items():
            found.append(
                Comparison(
                    arm=focus.name,
                    images_per_class=amount,
                    against=arm.name,
                    against_images_per_class=against,
                    metric=metric,
                    estimate=interval.estimate,
                    low=interval.low,
                    high=interval.high,
                    level=settings.level,
                    seeds=len(ordered),
                    images=len(first.novel),
                )
            )
    return found


def _ordered(seeds: set[int | None]) -> list[int | None]:
    return sorted(seeds, key=lambda seed: seed or 0)
