"""Coverage of a study's confidence intervals on simulated studies: `python -m benchmarks.coverage`.

Two configurations are tested on the same images. Their difference varies between classes as measured on `icons`. The
table is written to `docs/results/coverage.md`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from syncclip.core.text import markdown_grid
from syncclip.studies.statistics.bootstrap import Unit, configuration_metrics, differences, make_resamples
from syncclip.studies.statistics.metrics import Outcomes

TABLE = Path(__file__).parents[1] / "docs" / "results" / "coverage.md"
METRICS = ("novel", "hm")
NUMBERS = 4
"""Number of different numbers of images in the second table."""
NUMBER_SPREAD = 0.1
"""Standard deviation of a class's gain between numbers of images, as a fraction of the images."""


@dataclass(frozen=True)
class Simulation:
    """Parameters of a simulation.

    Attributes:
        classes: number of classes in each split (base and novel) of a dataset.
        novel: number of novel classes, if different.
        images: mean number of images per class.
        seeds: number of runs of each configuration.
        gain: true gain of the first configuration as a fraction of the images, averaged over classes and datasets.
        class_spread, dataset_spread: standard deviation of the gain over the classes of a dataset, and over datasets.
        seed_spread: standard deviation over runs.
    """

    datasets: int = 6
    classes: int = 7
    novel: int | None = None
    images: int = 22
    seeds: int = 10
    gain: float = 0.05
    class_spread: float = 0.15
    dataset_spread: float = 0.0
    seed_spread: float = 0.015


def outcomes(simulation: Simulation, generator: np.random.Generator) -> tuple[list[Outcomes], list[Outcomes]]:
    """Return both configurations' outcomes on each dataset; on average, the second has 50 % accuracy."""
    (first,), second = outcomes_at(1, simulation, generator)
    return first, second


def outcomes_at(
    numbers: int, simulation: Simulation, generator: np.random.Generator
) -> tuple[list[list[Outcomes]], list[Outcomes]]:
    """Return the first configuration's outcomes at several numbers of images, and the second configuration's outcomes.

    The mean gain is the same at all numbers. If there are several, the gain of each class varies between them.
    """
    first: list[list[Outcomes]] = [[] for _ in range(numbers)]
    second: list[Outcomes] = []
    for _ in range(simulation.datasets):
        count = simulation.classes + (simulation.novel or simulation.classes)
        label = np.repeat(np.arange(count), 3 + generator.poisson(simulation.images - 3, count))
        gain = (
            simulation.gain
            + generator.normal(0, simulation.dataset_spread)
            + generator.normal(0, simulation.class_spread, count)
        )
        ease, hardness = generator.normal(0.5, 0.1, count), generator.random(len(label))
        gains = [gain] if numbers == 1 else gain + generator.normal(0, NUMBER_SPREAD, (numbers, count))
        for configuration, added in zip([*first, second], [*gains, np.zeros(count)], strict=True):
            shift = generator.normal(0, simulation.seed_spread, (simulation.seeds, 1))
            right = hardness + generator.normal(0, 0.1, (simulation.seeds, len(label))) < (ease + added)[label] + shift
            configuration.append(Outcomes(right, right, np.full(right.shape, np.nan), label, simulation.classes))
    return first, second


def coverage(
    simulation: Simulation, unit: Unit, trials: int, resamples: int = 400, confidence_level: float = 0.95
) -> dict[str, float]:
    """Return metric -> percentage of trials whose interval contains the true gain."""
    hits = dict.fromkeys(METRICS, 0)
    for trial in range(trials):
        generator = np.random.default_rng((2025, trial))
        first, second = outcomes(simulation, generator)
        drawn = make_resamples(simulation.seeds, first, resamples, generator, unit)
        compared = differences([(configuration_metrics(first, drawn), configuration_metrics(second, drawn))])
        for metric in METRICS:
            average = compared[metric].average(confidence_level)
            hits[metric] += average.low <= 100 * simulation.gain <= average.high
    return {metric: 100 * count / trials for metric, count in hits.items()}


def joint_coverage(
    simulation: Simulation, unit: Unit, trials: int, resamples: int = 400, confidence_level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Return the coverage of the intervals for `NUMBERS` numbers of images, by metric.

    Returns:
        Percentages of trials in which the interval of the average contains the true gain, and in which all simultaneous
        intervals contain it.
    """
    hits = {metric: np.zeros(2) for metric in METRICS}
    truth = 100 * simulation.gain
    for trial in range(trials):
        generator = np.random.default_rng((2026, trial))
        first, second = outcomes_at(NUMBERS, simulation, generator)
        drawn = make_resamples(simulation.seeds, second, resamples, generator, unit)
        baseline = configuration_metrics(second, drawn)
        compared = differences([(configuration_metrics(each, drawn), baseline) for each in first])
        for metric in METRICS:
            average = compared[metric].average(confidence_level)
            together = compared[metric].simultaneous(confidence_level)
            hits[metric] += (
                average.low <= truth <= average.high,
                all(each.low <= truth <= each.high for each in together),
            )
    return {metric: (100 * average / trials, 100 * together / trials) for metric, (average, together) in hits.items()}


SIMULATIONS = {
    "six datasets of 14 classes, 10 seeds": Simulation(),
    "six datasets of 14 classes, 2 seeds": Simulation(seeds=2),
    "six datasets with different gains, 10 seeds": Simulation(dataset_spread=0.05),
    "two datasets with different gains, 5 seeds": Simulation(datasets=2, seeds=5, dataset_spread=0.05),
    "one dataset of 88 classes, 5 seeds": Simulation(datasets=1, classes=44, images=18, seeds=5),
    "one dataset of 14 classes, 5 seeds": Simulation(datasets=1, seeds=5),
    "one dataset of 12 base and 3 novel classes, 5 seeds": Simulation(datasets=1, classes=12, novel=3, seeds=5),
    "six datasets, equal gain in all classes, 10 seeds": Simulation(class_spread=0.0),
}


SEVERAL = {
    name: SIMULATIONS[name]
    for name in (
        "six datasets of 14 classes, 10 seeds",
        "six datasets of 14 classes, 2 seeds",
        "one dataset of 88 classes, 5 seeds",
        "one dataset of 14 classes, 5 seeds",
        "one dataset of 12 base and 3 novel classes, 5 seeds",
    )
}
"""Simulations with several numbers of images."""


def joint_table(trials: int) -> str:
    """Simulate studies with several numbers of images, and return a section with the coverage of their intervals."""
    rows = []
    for name, simulation in SEVERAL.items():
        for unit in get_args(Unit)[1 : 3 if simulation.datasets > 1 else 2]:
            percentages = joint_coverage(simulation, unit, trials)
            rows.append([name, unit, *(f"{value:.1f}" for metric in METRICS for value in percentages[metric])])
            print(*rows[-1], flush=True)
    headings = ["novel, average", "novel, simultaneous", "HM, average", "HM, simultaneous"]
    return (
        "\n## Several numbers of images\n\n"
        f"Each of {trials:,} simulated studies compares two configurations at {NUMBERS} numbers of images. The gain "
        "of each class also varies between\n"
        "these numbers, with a standard deviation of 10 points. The table shows the percentage of studies whose "
        "interval of the average gain contains\n"
        "the true gain, and of studies in which all simultaneous intervals contain it.\n\n"
        + markdown_grid(["study", "resampled unit", *headings], rows)
        + "\n"
    )


def main(trials: int) -> None:
    """Simulate all studies and write both tables."""
    rows = []
    for name, simulation in SIMULATIONS.items():
        for unit in get_args(Unit):
            if unit != "datasets" or simulation.datasets > 1:
                percentages = coverage(simulation, unit, trials)
                rows.append([name, unit, *(f"{percentages[metric]:.1f}" for metric in METRICS)])
                print(*rows[-1], flush=True)
    words = (
        "# Coverage of the confidence intervals\n\n"
        f"The table shows the percentage of {trials:,} simulated studies whose 95 % interval contains the true gain of "
        "5 points, by the unit that is\n"
        "resampled in addition to the seeds (`python -m benchmarks.coverage`). Unless stated otherwise, the gain "
        "varies between classes with\n"
        "a standard deviation of 15 points, as on `icons`.\n\n"
    )
    table = markdown_grid(["study", "resampled unit", "novel", "HM"], rows) + "\n"
    TABLE.write_text(words + table + joint_table(trials))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
