"""Compare each method with its plain formulation: `python -m benchmarks.methods --help`.

Both run on the same weights, in turn, in one process; the table goes to the terminal and to `RESULTS.md`.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import typer
from torch import Tensor
from torch.autograd import backward

from benchmarks.course import Course, Entrants
from benchmarks.memory import measured_peak_bytes, peak_bytes, resident_bytes
from benchmarks.plain import Plain
from syncclip.core.settings import UserError
from syncclip.methods import METHODS, Method, TrainingBatch, find_method

RESULTS = Path(__file__).with_name("RESULTS.md")
GIGA = 1e9
IMAGES = 25  # test images a class: Caltech101 has 25, ImageNet 50
CHUNK = 100
"""Classes at a time where the whole plain step does not fit; the cost of a text tower is additive over classes."""


@dataclass
class Pairs:
    """Seconds of ours and of the plain formulation, one pair per repetition."""

    seconds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float]:
        ours, plain = zip(*self.seconds, strict=True)
        return statistics.median(ours), statistics.median(plain)

    def __str__(self) -> str:
        """Median times, and the median and range of their ratios."""
        if not self.seconds:
            return "– | – | –"
        ours, plain = self.medians
        ratios = [theirs / own for own, theirs in self.seconds]
        spread = f"**{statistics.median(ratios):.2f}×** ({min(ratios):.2f}–{max(ratios):.2f})"
        return f"{ours:.3g} s | {plain:.3g} s | {spread}"


@dataclass
class Race:
    """The results of one method.

    Attributes:
        step: forward and backward of a training batch.
        evaluation: of one batch; ours has encoded the texts before, the plain one encodes them with every batch.
        first: seconds of ours for the first image of an evaluation, including the texts.
        passes: how often the plain evaluation runs over the images.
        whole: the plain step ran over all classes at once.
        bytes: (ours, plain) at the peak of a step, weights included.
        measured: the same by the system's count, where that was asked for.
    """

    name: str
    passes: int
    whole: bool = True
    step: Pairs = field(default_factory=Pairs)
    evaluation: Pairs = field(default_factory=Pairs)
    first: float = 0.0
    bytes: tuple[int, int] | None = None
    measured: tuple[int, int] | None = None

    def gain(self, batches: int) -> float:
        """Plain over ours, for a whole evaluation of so many batches."""
        ours, plain = self.evaluation.medians
        return self.passes * batches * plain / (self.first + batches * ours)

    def row(self, batches: int) -> str:
        """A line of the table."""
        name = self.name if self.whole else f"{self.name}¹"
        peak = "– | – | –"
        if self.bytes:
            ours, plain = ([each[side] / GIGA for each in (self.bytes, self.measured) if each] for side in (0, 1))
            texts = [f"{own[0]:.2f}" + "".join(f" ({more:.2f})" for more in own[1:]) for own in (ours, plain)]
            peak = f"{texts[0]} | {texts[1]} | **{ours[0] / plain[0]:.2f}**"
        return f"| {name} | {self.step} | {peak} | {self.evaluation} | {self.gain(batches):.1f}× |"


def our_step(method: Method, plain: Plain, batch: TrainingBatch) -> Tensor:  # noqa: ARG001
    return method.loss(batch)["total"]


def plain_step(method: Method, plain: Plain, batch: TrainingBatch) -> Tensor:  # noqa: ARG001
    return plain.loss(batch)


STEPS = {"ours": our_step, "plain": plain_step}


def race(entrants: Entrants, repetitions: int, room: float = math.inf) -> Race:
    """Run both sides in turn, the first one changing with each repetition.

    Args:
        room: bytes that a step may take; a plain step that needs more is run in chunks of classes.
    """
    ours, plain, batch, tests = entrants.ours, entrants.plain, entrants.batch, entrants.tests
    result = Race(entrants.name, plain.passes)
    if ours.settings.data:
        result.bytes = peak("ours", entrants), peak("plain", entrants)
        result.whole = result.bytes[1] <= room
        text = None if result.whole else ours.text_features().detach()[plain.classes(batch)]

        def train_plainly() -> None:
            if text is None:
                backward(plain_step(ours, plain, batch))
            else:
                plain.step_in_parts(batch, text, CHUNK)

        ours.train()
        result.step = alternate(
            f"{entrants.name}, step",
            lambda: backward(our_step(ours, plain, batch)),
            train_plainly,
            repetitions,
            tests.device,
        )
        ours.zero_grad(set_to_none=True)
    ours.eval()
    with torch.no_grad():
        result.first = seconds(lambda: ours.logits(tests[:1]), tests.device)
        result.evaluation = alternate(
            f"{entrants.name}, test batch",
            lambda: ours.logits(tests),
            lambda: plain.logits(tests),
            repetitions,
            tests.device,
        )
    return result


def peak(side: str, entrants: Entrants, count: Callable[..., int] = peak_bytes) -> int:
    """Bytes at the peak of a training step of "ours" or "plain": what it makes, and what it is given."""
    ours, plain = entrants.ours, entrants.plain
    held = (ours, ours.clip) if side == "ours" else (ours, ours.clip, plain)
    return count(STEPS[side], ours, plain, entrants.batch) + resident_bytes(*held)


def measured_peak(side: str, name: str, course: Course) -> int:
    """What the system measures for it; call it in a process of its own."""
    torch.set_num_threads(1)
    return peak(side, course.entrants(name), measured_peak_bytes)


def alternate(
    what: str, ours: Callable[[], object], plain: Callable[[], object], times: int, device: torch.device
) -> Pairs:
    """Seconds of both sides, which alternate in going first; reported as they come, since some take minutes."""
    pairs = Pairs()
    for repetition in range(times):
        sides = [ours, plain] if repetition % 2 == 0 else [plain, ours]
        taken = [seconds(side, device) for side in sides]
        pair = (taken[0], taken[1]) if repetition % 2 == 0 else (taken[1], taken[0])
        pairs.seconds.append(pair)
        print(f"{what} {repetition + 1}/{times}: ours {pair[0]:.3g} s, plain {pair[1]:.3g} s", file=sys.stderr)
    return pairs


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long some work takes.

    With one thread on a CPU, the time of this process: the clock's on an idle machine, and on a busy one the same.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    _wait(device)
    start = clock()
    work()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    methods: Annotated[list[str] | None, typer.Argument(help="Names; all of them by default.")] = None,
    classes: Annotated[int, typer.Option(help="Classes, of ImageNet's 1,000.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Real images of a training step.")] = 8,
    tests: Annotated[int, typer.Option(min=1, help="Images of an evaluation batch.")] = 100,
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
    room: Annotated[float, typer.Option(help="Gigabytes that a step may take.")] = 8.0,
    measure: Annotated[bool, typer.Option("--measure", help="Compare the counted peaks with the system's.")] = False,
    out: Annotated[Path, typer.Option(help="The file that the table is added to.")] = RESULTS,
) -> None:
    """Compare methods with their plain formulations, and add the table to the results."""
    if precision not in ("fp32", "bf16"):
        raise UserError(f"--precision: {precision} is neither fp32 nor bf16")
    torch.set_num_threads(threads)
    names = methods or list(METHODS)
    for name in names:
        find_method(name)
    course = Course(classes, batch, tests, cast(Literal["fp32", "bf16"], precision), device)
    batches = math.ceil(classes * IMAGES / tests)
    text = heading(course, repetitions, batches)
    print(text)
    lines = [text]
    for name in names:
        result = race(course.entrants(name), repetitions, room * GIGA)
        if measure and result.bytes and result.whole:
            result.measured = alone("ours", name, course), alone("plain", name, course)
        lines.append(result.row(batches))
        print(lines[-1], flush=True)
    with out.open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")


def alone(side: str, name: str, course: Course) -> int:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measured_peak, side, name, replace(course)).result()


def heading(course: Course, repetitions: int, batches: int) -> str:
    """What was run, where, and the head of the table."""
    command = "python -m benchmarks.methods " + " ".join(sys.argv[1:])
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "open_clip_torch", "syncclip"))
    return f"""## {date.today()}: {course.classes} classes, batch {course.batch}, {course.precision}, {course.device}

`{command.strip()}`

{processor(course.device)}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s); Python \
{platform.python_version()}, {packages}; {repetitions} repetitions; evaluation in batches of {course.tests}, \
of {IMAGES} images a class {batches} of them.

| method | step: ours | plain | gain | peak GB: ours | plain | share | test batch: ours | plain | gain | evaluation |
|---|---|---|---|---|---|---|---|---|---|---|"""


def processor(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    fields = [line.partition(":") for line in facts.read_text().splitlines()] if facts.exists() else []
    return next((value.strip() for key, _, value in fields if key.startswith("model name")), platform.processor())


if __name__ == "__main__":
    app()
