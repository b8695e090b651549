"""The cells of a study, in an order whose first results are the most informative: pure functions of the settings."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from syncclip.recipe.study import Configuration, StudySettings


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    `images_per_class` is None where the configuration learns from no synthetic images, `seed` where it learns nothing.
    """

    configuration: Configuration
    images_per_class: int | None
    seed: int | None

    @property
    def name(self) -> str:
        """The cell's folder, e.g. `syncclip-both-16-seed1`."""
        parts = [self.configuration.name]
        if self.images_per_class is not None:
            parts.append(str(self.images_per_class))
        if self.seed is not None:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)


def spread(amounts: list[int]) -> list[int]:
    """Amounts in the order in which a curve takes shape: largest, smallest, then the middle of the widest gap left.

    >>> spread([1, 2, 4, 8, 16])
    [16, 1, 4, 2, 8]
    """
    ordered = sorted(amounts)
    order = [len(ordered) - 1, 0][: len(ordered)]
    while len(order) < len(ordered):
        taken = sorted(order)
        gaps = [(right - left, -left) for left, right in itertools.pairwise(taken)]
        width, left = max(gaps)
        order.append(-left + width // 2)
    return [ordered[i] for i in order]


def cells(settings: StudySettings) -> list[Cell]:
    """All cells, the most informative first.

    Everything for the first seed comes before the next seed begins, and within a seed all configurations at the
    largest amount,
    then at the smallest, then between.
    """
    order = [Cell(configuration, None, None) for configuration in settings.configurations if not configuration.trained]
    for seed in settings.seeds:
        order += [
            Cell(configuration, None, seed)
            for configuration in settings.configurations
            if configuration.trained and not configuration.synthetic
        ]
        order += [
            Cell(configuration, n, seed)
            for n in spread(settings.amounts)
            for configuration in settings.configurations
            if configuration.synthetic and n in configuration.at(settings.amounts)
        ]
    return order


def capped(amounts: list[int], most: int) -> list[int]:
    """The amounts that can be had, ascending: larger ones than `most` are cut down to it."""
    return sorted({min(n, most) for n in amounts})
