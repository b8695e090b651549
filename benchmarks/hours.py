"""Estimate the GPU hours of the literature's protocols: `python -m benchmarks.hours --help`.

Nothing is measured. Runs, steps and images are counted from the recipes; times are published figures or assumptions,
which options override. Runs are sequential, on one GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer

from syncclip.core import text
from syncclip.datasets.catalog import DATASETS
from syncclip.protocols.protocols import PROTOCOLS, Protocol
from syncclip.protocols.run import recipe_of
from syncclip.stream.order import steps
from syncclip.studies.grid import cells

IMAGE = {"coop": 0.006, "kgcoop": 0.006, "tcp": 0.006, "cocoop": 0.160}
"""Training seconds per image on an unknown GPU, from the README of KgCoOp. TCP is assumed to match KgCoOp, because both
have learnable parameters only in the text tower."""


class Assumed(NamedTuple):
    """Assumed rates for converting counts to time and cost."""

    rate: float = 5.0
    """Images generated per second. Stable Diffusion 1.5 at 512 pixels takes 43 TFLOP per image by torch's FLOP counter
    (25 steps of 2 × 0.80 with guidance, and 2.5 to decode). A quarter of an H100's 989 TFLOP/s yields 5.8 images per
    second."""
    imagenet_step: float = 0.54
    """Seconds per training step on ImageNet with prompts in the image tower: PromptSRC's authors report 6 hours for
    40,000 steps on an A100 (`docs/TRAIN.md`)."""
    step: float = 0.20
    """Seconds per training step on the ten other datasets: 8 hours for the 143,520 steps of three seeds."""
    tests: float = 1000.0
    """Test images per second, limited by decoding on 16 cores."""
    price: float = 3.0
    """USD per GPU hour."""


ASSUMED = Assumed()


class Training(NamedTuple):
    """Training runs of one configuration on one dataset, summed over seeds and numbers of images.

    Attributes:
        images: number of images per step, over all domains.
    """

    dataset: str
    method: str
    steps: int
    images: int

    def hours(self, assumed: Assumed) -> float:
        """Return the estimated GPU hours."""
        if self.method in IMAGE:
            return self.steps * self.images * IMAGE[self.method] / 3600
        return self.steps * (assumed.imagenet_step if self.dataset == "imagenet" else assumed.step) / 3600


class Load(NamedTuple):
    """Total work of a protocol over all datasets and seeds.

    Attributes:
        generated: number of synthetic images.
        tested, carried: number of test images over all runs, from the training dataset and from transfer datasets.
    """

    runs: int
    generated: int
    trainings: list[Training]
    tested: int
    carried: int

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return sum(training.steps for training in self.trainings)


def load(protocol: Protocol) -> Load:
    """Count the work of a protocol."""
    runs = generated = tested = carried = 0
    trainings = []
    for name in protocol.datasets:
        recipe, dataset = recipe_of(protocol, name, "/data"), DATASETS[name]
        count = Counter(cell.configuration.name for cell in cells(recipe.study))
        runs += count.total()
        tested += count.total() * (dataset.test or 0)
        carried += count.total() * sum(DATASETS[other].test or 0 for other in recipe.evaluation.transfer)
        if any(configuration.synthetic for configuration in recipe.study.configurations):
            generated += dataset.classes * recipe.study.amounts[-1]
        base = dataset.classes if recipe.dataset.base == "all" else (dataset.classes + 1) // 2
        novel = int(base < dataset.classes)
        groups = {"real": 1, "synthetic": 1 + novel, "both": 2 + novel}
        for configuration in recipe.study.configurations:
            if configuration.trained:
                epochs = configuration.overrides.get("training.epochs", recipe.training.epochs)
                batch = configuration.overrides.get("training.batch_size", recipe.training.batch_size)
                images = base * configuration.overrides.get("dataset.shots", recipe.dataset.shots)
                length = count[configuration.name] * epochs * steps(images, batch)
                trainings.append(Training(name, configuration.method, length, batch * groups[configuration.data]))
    return Load(runs, generated, trainings, tested, carried)


def by_protocol(assumed: Assumed) -> Iterator[list[str]]:
    """Yield a row per protocol; a protocol that reuses another's runs only counts the additional work."""
    first: dict[str, str] = {}
    for protocol in PROTOCOLS.values():
        work, source = load(protocol), first.setdefault(protocol.runs, protocol.name)
        counts = [f"{number:,}" for number in (work.runs, work.generated, work.steps)]
        seconds = work.generated / assumed.rate + work.tested / assumed.tests
        hours = seconds / 3600 + sum(training.hours(assumed) for training in work.trainings)
        if source != protocol.name:
            counts, hours = [f"those of `{source}`", "", ""], 0.0
        hours += work.carried / assumed.tests / 3600
        shown = f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"
        yield [f"`{protocol.name}`", *counts, shown, f"{hours * assumed.price:,.0f}"]


def by_method(protocol: Protocol, assumed: Assumed) -> Iterator[list[str]]:
    """Yield a row per method of a protocol: steps and training hours."""
    trainings: dict[str, list[Training]] = {}
    for training in load(protocol).trainings:
        trainings.setdefault(training.method, []).append(training)
    for method, members in trainings.items():
        hours = sum(training.hours(assumed) for training in members)
        yield [f"`{method}`", f"{sum(training.steps for training in members):,}", f"{hours:.1f}"]


def grids(assumed: Assumed) -> tuple[str, str]:
    """Return Markdown tables of all protocols, and of the methods in the base-to-novel protocol."""
    headings = ["protocol", "runs", "images generated", "training steps", "GPU hours", "USD"]
    methods = list(by_method(PROTOCOLS["base-to-novel"], assumed))
    return (
        text.markdown_grid(headings, list(by_protocol(assumed))),
        text.markdown_grid(["method", "training steps", "GPU hours"], methods),
    )


def main(
    rate: Annotated[float, typer.Option(help="Images generated per second.")] = ASSUMED.rate,
    imagenet_step: Annotated[float, typer.Option(help="Seconds per step on ImageNet.")] = ASSUMED.imagenet_step,
    step: Annotated[float, typer.Option(help="Seconds per training step on the other datasets.")] = ASSUMED.step,
    tests: Annotated[float, typer.Option(help="Images tested per second.")] = ASSUMED.tests,
    price: Annotated[float, typer.Option(help="USD per GPU hour.")] = ASSUMED.price,
) -> None:
    """Print the GPU hours and cost of all protocols, and the GPU hours per method for base-to-novel."""
    typer.echo("\n\n".join(grids(Assumed(rate, imagenet_step, step, tests, price))))


if __name__ == "__main__":
    typer.run(main)
