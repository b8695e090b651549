"""Grid of a study: its training runs ("cells"), with the most informative runs first."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from syncclip.recipe.study import Configuration, StudySettings


@dataclass(frozen=True)
class Cell:
    """Run of a study; `images_per_class` is None without synthetic images, and `seed` is None without training."""

    configuration: Configuration
    images_per_class: int | None
    seed: int | None

    @property
    def name(self) -> str:
        """Name of the run folder, such as `syncclip-both-16-seed1`."""
        amount = [] if self.images_per_class is None else [str(self.images_per_class)]
        seed = [] if self.seed is None else [f"seed{self.seed}"]
        return "-".join([self.configuration.name, *amount, *seed])


def spread(amounts: list[int]) -> list[int]:
    """Order numbers of images to span the curve early: largest, smallest, then midpoints of the widest gaps.

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
    """List all runs, the most informative first: seed by seed, with the numbers of images in the order of `spread`."""
    trained = [configuration for configuration in settings.configurations if configuration.trained]
    order = [Cell(untrained, None, None) for untrained in settings.configurations if not untrained.trained]
    for seed in settings.seeds:
        order += [Cell(configuration, None, seed) for configuration in trained if not configuration.synthetic]
        order += [
            Cell(configuration, n, seed)
            for n in spread(settings.amounts)
            for configuration in trained
            if configuration.synthetic and n in configuration.at(settings.amounts)
        ]
    return order
