"""What the literature's protocols take on one GPU, by arithmetic: `python -m benchmarks.hours --help`.

Nothing is measured here. Runs, steps and images are counted from the recipes; seconds are what others published, and
assumptions that are listed below and can be replaced. Runs go one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer

from syncclip.core import text
from syncclip.core.order import steps
from syncclip.datasets.catalog import DATASETS
from syncclip.protocols.protocols import PROTOCOLS, Protocol
from syncclip.protocols.run import recipe_of
from syncclip.studies.grid import cells

IMAGE = {"coop": 0.006, "kgcoop": 0.006, "tcp": 0.006, "cocoop": 0.160}
"""Seconds of training an image, by the README of KgCoOp, which doesn't tell the GPU. TCP is taken to cost as much: it
too learns in the text tower alone."""


class Assumed(NamedTuple):
    """What the counts are multiplied by."""

    rate: float = 5.0
    """Images generated per second. Stable Diffusion 1.5 at 512 pixels takes 43 TFLOP per image: in each of 25 steps
    0.80 twice, for the guidance, and 2.5 to decode, by torch's counter. A quarter of an H100's 989 TFLOP/s gives 5.8
    per second."""
    imagenet_step: float = 0.54
    """Seconds of a training step on ImageNet with prompts in the vision tower: PromptSRC's authors report 6 hours for
    40,000 steps on an A100 (`docs/TRAIN.md`)."""
    step: float = 0.20
    """The same on the ten other datasets: 8 hours for the 143,520 steps of three seeds."""
    tests: float = 1000.0
    """Images tested per second: 35 GFLOP each are little for a GPU, so the limit is 16 cores that decode them."""
    price: float = 3.0
    """USD per GPU hour."""


ASSUMED = Assumed()


class Training(NamedTuple):
    """One configuration on one dataset, all its seeds and amounts together."""

    dataset: str
    method: str
    steps: int
    images: int
    """Of one step, all domains together."""

    def hours(self, assumed: Assumed) -> float:
        """GPU hours."""
        if self.method in IMAGE:
            return self.steps * self.images * IMAGE[self.method] / 3600
        return self.steps * (assumed.imagenet_step if self.dataset == "imagenet" else assumed.step) / 3600


class Load(NamedTuple):
    """What a protocol takes, all datasets and seeds together."""

    runs: int
    generated: int
    """Synthetic images."""
    trainings: list[Training]
    tested: int
    """Images of the datasets that were trained on, each run's."""
    carried: int
    """Images of others, each run's."""

    @property
    def steps(self) -> int:
        """Of all trainings."""
        return sum(one.steps for one in self.trainings)


def load(protocol: Protocol) -> Load:
    """Count a protocol's work."""
    runs = generated = tested = carried = 0
    trainings = []
    for name in protocol.datasets:
        recipe, dataset = recipe_of(protocol, name, "/data"), DATASETS[name]
        count = Counter(cell.configuration.name for cell in cells(recipe.study))
        runs += count.total()
        tested += count.total() * (dataset.test or 0)
        carried += count.total() * sum(DATASETS[one].test or 0 for one in recipe.evaluation.transfer)
        if any(configuration.synthetic for configuration in recipe.study.configurations):
            generated += dataset.classes * recipe.study.amounts[-1]
        base = dataset.classes if recipe.dataset.base == "all" else (dataset.classes + 1) // 2
        novel = int(base < dataset.classes)
        groups = {"real": 1, "synthetic": 1 + novel, "both": 2 + novel}
        for configuration in recipe.study.configurations:
            if configuration.trained:
                epochs = configuration.overrides.get("training.epochs", recipe.training.epochs)
                batch = configuration.overrides.get("training.batch_size", recipe.training.batch_size)
                shown = base * configuration.overrides.get("dataset.shots", recipe.dataset.shots)
                length = count[configuration.name] * epochs * steps(shown, batch)
                trainings.append(Training(name, configuration.method, length, batch * groups[configuration.data]))
    return Load(runs, generated, trainings, tested, carried)


def by_protocol(assumed: Assumed) -> Iterator[list[str]]:
    """A row for each protocol; one that reads the runs of another has only what it adds to them."""
    first: dict[str, str] = {}
    for protocol in PROTOCOLS.values():
        found, whose = load(protocol), first.setdefault(protocol.runs, protocol.name)
        counts = [f"{number:,}" for number in (found.runs, found.generated, found.steps)]
        seconds = found.generated / assumed.rate + found.tested / assumed.tests
        hours = seconds / 3600 + sum(one.hours(assumed) for one in found.trainings)
        if whose != protocol.name:
            counts, hours = [f"those of `{whose}`", "", ""], 0.0
        hours += found.carried / assumed.tests / 3600
        told = f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"
        yield [f"`{protocol.name}`", *counts, told, f"{hours * assumed.price:,.0f}"]


def by_method(protocol: Protocol, assumed: Assumed) -> Iterator[list[str]]:
    """A row for each method of a protocol: steps, and hours of training."""
    trainings = load(protocol).trainings
    for method in dict.fromkeys(one.method for one in trainings):
        mine = [one for one in trainings if one.method == method]
        yield [f"`{method}`", f"{sum(one.steps for one in mine):,}", f"{sum(one.hours(assumed) for one in mine):.1f}"]


def grids(assumed: Assumed) -> tuple[str, str]:
    """All protocols, and the methods of base-to-novel, as Markdown."""
    return (
        text.markdown_grid(
            ["protocol", "runs", "images generated", "training steps", "GPU hours", "USD"], list(by_protocol(assumed))
        ),
        text.markdown_grid(
            ["method", "training steps", "GPU hours"], list(by_method(PROTOCOLS["base-to-novel"], assumed))
        ),
    )


def main(
    rate: Annotated[
        float, typer.Option(help="Images generated per second, by `syncclip plan --probe`.")
    ] = ASSUMED.rate,
    imagenet_step: Annotated[
        float, typer.Option(help="Seconds of a training step on ImageNet.")
    ] = ASSUMED.imagenet_step,
    step: Annotated[float, typer.Option(help="Seconds of a training step on the other datasets.")] = ASSUMED.step,
    tests: Annotated[float, typer.Option(help="Images tested per second.")] = ASSUMED.tests,
    price: Annotated[float, typer.Option(help="USD per GPU hour.")] = ASSUMED.price,
) -> None:
    """Print hours and money of all protocols, and of the methods of base-to-novel."""
    typer.echo("\n\n".join(grids(Assumed(rate, imagenet_step, step, tests, price))))


if __name__ == "__main__":
    typer.run(main)
