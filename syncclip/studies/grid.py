"""The trainings ("cells") of a study, the most informative first."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from syncclip.recipe.study import Configuration, StudySettings


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    `images_per_class` is None without synthetic images, `seed` is None for an untrained configuration.
    """

    configuration: Configuration
    images_per_class: int | None
    seed: int | None

    @property
    def name(self) -> str:
        """Folder name, e.g. `syncclip-both-16-seed1`."""
        amount = [] if self.images_per_class is None else [str(self.images_per_class)]
        seed = [] if self.seed is None else [f"seed{self.seed}"]
        return "-".join([self.configuration.name, *amount, *seed])


def spread(amounts: list[int]) -> list[int]:
    """Order numbers of images so that a curve takes shape early: largest, smallest, then the middle of the widest gap.

    >>> spread([1, 2, 4, 8, 16])
    [16, 1, 4, 2, 8]
    """
    ordered = sorted(amounts)
    order = [len(ordered) - 1, 0][: len(ordered)]
    while len(order) < len(ordered):
        width, left = max((right - left, -left) for left, right in itertools.pairwise(sorted(order)))
        order.append(-left + width // 2)
    return [ordered[i] for i in order]


def cells(settings: StudySettings) -> list[Cell]:
    """All trainings, the most informative first.

    The first seed is complete before the next begins. Within a seed, all configurations come at the largest number of
    images, then at the smallest, then between.
    """
    trained = [of for of in settings.configurations if of.trained]
    order = [Cell(of, None, None) for of in settings.configurations if not of.trained]
    for seed in settings.seeds:
        order += [Cell(of, None, seed) for of in trained if not of.synthetic]
        order += [
            Cell(of, n, seed)
            for n in spread(settings.amounts)
            for of in trained
            if of.synthetic and n in of.at(settings.amounts)
        ]
    return order


def capped(amounts: list[int], largest: int) -> list[int]:
    """Available numbers of images, ascending; larger ones are reduced to the largest."""
    return sorted({min(n, largest) for n in amounts})
