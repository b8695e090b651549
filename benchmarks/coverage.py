"""How often do a study's intervals hold the truth? `python -m benchmarks.coverage` simulates studies and counts.

Two configurations answer about images of classes. What the first gains differs from class to class by as much as was
measured on
`icons`; both meet the same images. The table goes to `docs/results/coverage.md`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from syncclip.core.text import markdown_grid
from syncclip.studies.statistics.bootstrap import Unit, configuration_metrics, difference, make_resamples
from syncclip.studies.statistics.metrics import Outcomes

TABLE = Path(__file__).parents[1] / "docs" / "results" / "coverage.md"
METRICS = ("novel", "hm")
GAIN = 0.05
"""What the first configuration gains, a share of the images: on average over classes, and over datasets."""


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        classes: of each half of each dataset.
        novel: of the novel half, where it has another number.
        images: of a class on average.
        seeds: runs of each configuration.
        class_spread, dataset_spread: standard deviation of the gain over the classes of a dataset, and over datasets.
        luck: of a run, standard deviation.
    """

    datasets: int = 6
    classes: int = 7
    novel: int | None = None
    images: int = 22
    seeds: int = 10
    class_spread: float = 0.15
    dataset_spread: float = 0.0
    luck: float = 0.015


def answers(world: World, generator: np.random.Generator) -> tuple[list[Outcomes], list[Outcomes]]:
    """What both configurations answer on each dataset; half of the images of an average class are easy enough for
    the second."""
    first: list[Outcomes] = []
    second: list[Outcomes] = []
    for _ in range(world.datasets):
        count = world.classes + (world.novel or world.classes)
        label = np.repeat(np.arange(count), 3 + generator.poisson(world.images - 3, count))
        gain = GAIN + generator.normal(0, world.dataset_spread) + generator.normal(0, world.class_spread, count)
        ease, hardness = generator.normal(0.5, 0.1, count), generator.random(len(label))
        for configuration, added in ((first, gain), (second, np.zeros(count))):
            luck = generator.normal(0, world.luck, (world.seeds, 1))
            right = hardness + generator.normal(0, 0.1, (world.seeds, len(label))) < (ease + added)[label] + luck
            configuration.append(Outcomes(right, right, np.full(right.shape, np.nan), label, world.classes))
    return first, second


def coverage(world: World, unit: Unit, trials: int, resamples: int = 400, level: float = 0.95) -> dict[str, float]:
    """Metric -> percentage of the trials whose interval holds the true gain."""
    held = dict.fromkeys(METRICS, 0)
    for trial in range(trials):
        generator = np.random.default_rng((2025, trial))
        first, second = answers(world, generator)
        drawn = make_resamples(world.seeds, first, resamples, generator, unit)
        found = difference(configuration_metrics(first, drawn), configuration_metrics(second, drawn), level)
        for metric in METRICS:
            held[metric] += found[metric].low <= 100 * GAIN <= found[metric].high
    return {metric: 100 * count / trials for metric, count in held.items()}


WORLDS = {
    "six datasets of 14 classes, 10 seeds": World(),
    "six datasets of 14 classes, 2 seeds": World(seeds=2),
    "six datasets that differ, too, 10 seeds": World(dataset_spread=0.05),
    "two datasets that differ, too, 5 seeds": World(datasets=2, seeds=5, dataset_spread=0.05),
    "one dataset of 88 classes, 5 seeds": World(datasets=1, classes=44, images=18, seeds=5),
    "one dataset of 14 classes, 5 seeds": World(datasets=1, seeds=5),
    "one dataset of 12 base and 3 novel classes, 5 seeds": World(datasets=1, classes=12, novel=3, seeds=5),
    "six datasets, classes alike, 10 seeds": World(class_spread=0.0),
}


def main(trials: int) -> None:
    """Write the table."""
    rows = []
    for name, world in WORLDS.items():
        for unit in get_args(Unit):
            if unit != "datasets" or world.datasets > 1:
                found = coverage(world, unit, trials)
                rows.append([name, unit, *(f"{found[metric]:.1f}" for metric in METRICS)])
                print(*rows[-1], flush=True)
    words = (
        f"# Coverage of the intervals\n\nPercentage of {trials:,} simulated studies whose 95 % interval holds the true "
        "gain of 5 points, by what is drawn\nagain beside the seeds (`python -m benchmarks.coverage`). Unless the row "
        "says otherwise, the gain differs from\nclass to class with a standard deviation of 15 points, as on "
        "`icons`.\n\n"
    )
    TABLE.write_text(words + markdown_grid(["study", "drawn again", "novel", "HM"], rows) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
