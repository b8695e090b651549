"""Each method, compared with its plain formulation: `python -m benchmarks.methods --help`.

The two formulations have the same weights and alternate in one process.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import typer
from torch import Tensor
from torch.autograd import backward

from benchmarks.course import Course, Entrants
from benchmarks.measuring import in_new_process
from benchmarks.memory import measured_peak_bytes, peak_bytes, resident_bytes
from benchmarks.plain import Plain
from syncclip.core.settings import UserError
from syncclip.methods import METHODS, Method, TrainingBatch, find_method

GIGA = 1e9
IMAGES = 25  # test images per class: Caltech101 has 25, ImageNet 50
CHUNK = 100
"""Number of classes per part of a plain step above the memory limit; the text tower's cost is additive over classes."""


@dataclass
class Pairs:
    """Seconds of our formulation and of the plain formulation, as one pair per repetition."""

    seconds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float]:
        ours, plain = zip(*self.seconds, strict=True)
        return statistics.median(ours), statistics.median(plain)

    def __str__(self) -> str:
        """Return the median times, and the median and range of their ratios."""
        if not self.seconds:
            return "– | – | –"
        ours, plain = self.medians
        ratios = [theirs / own for own, theirs in self.seconds]
        spread = f"**{statistics.median(ratios):.2f}×** ({min(ratios):.2f}–{max(ratios):.2f})"
        return f"{ours:.3g} s | {plain:.3g} s | {spread}"


@dataclass
class Race:
    """Results of one method.

    Attributes:
        step: forward and backward pass of a training batch.
        evaluation: one test batch; the plain formulation re-encodes the texts for every batch, ours caches them.
        first: our seconds for the first image of an evaluation, including text encoding.
        passes: number of passes of the plain evaluation over the images.
        whole: whether the plain step ran on all classes at once.
        bytes: (ours, plain) peak bytes of a step, including weights.
        measured: (ours, plain) peak bytes as measured by the operating system.
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
        """Return the ratio plain / ours for a whole evaluation with this number of batches."""
        ours, plain = self.evaluation.medians
        return self.passes * batches * plain / (self.first + batches * ours)

    def row(self, batches: int) -> str:
        """Return the row of the table."""
        name = self.name if self.whole else f"{self.name}¹"
        peak = "– | – | –"
        if self.bytes:
            ours, plain = ([peaks[side] / GIGA for peaks in (self.bytes, self.measured) if peaks] for side in (0, 1))
            texts = [f"{own[0]:.2f}" + "".join(f" ({more:.2f})" for more in own[1:]) for own in (ours, plain)]
            peak = f"{texts[0]} | {texts[1]} | **{ours[0] / plain[0]:.2f}**"
        return f"| {name} | {self.step} | {peak} | {self.evaluation} | {self.gain(batches):.1f}× |"


def our_step(method: Method, plain: Plain, batch: TrainingBatch) -> Tensor:  # noqa: ARG001
    return method.loss(batch)["total"]


def plain_step(method: Method, plain: Plain, batch: TrainingBatch) -> Tensor:  # noqa: ARG001
    return plain.loss(batch)


STEPS = {"ours": our_step, "plain": plain_step}


def race(entrants: Entrants, repetitions: int, room: float = math.inf) -> Race:
    """Measure both formulations alternately.

    Args:
        room: memory limit of a step in bytes; a plain step that exceeds it runs in parts.
    """
    ours, plain, batch, tests = entrants.ours, entrants.plain, entrants.batch, entrants.tests
    result = Race(entrants.name, plain.passes)
    if ours.settings.trains:
        result.bytes = peak("ours", entrants), peak("plain", entrants)
        result.whole = result.bytes[1] <= room
        text = None if result.whole else ours.text_features().detach()[plain.classes(batch)]

        def train_plain() -> None:
            if text is None:
                backward(plain_step(ours, plain, batch))
            else:
                plain.step_in_parts(batch, text, CHUNK)

        ours.train()
        train = lambda: backward(our_step(ours, plain, batch))  # noqa: E731
        result.step = alternate(f"{entrants.name}, step", train, train_plain, repetitions, tests.device)
        ours.zero_grad(set_to_none=True)
    ours.eval()
    with torch.no_grad():
        result.first = seconds(lambda: ours.logits(tests[:1]), tests.device)
        sides = (lambda: ours.logits(tests)), (lambda: plain.logits(tests))
        result.evaluation = alternate(f"{entrants.name}, test batch", *sides, repetitions, tests.device)
    return result


def peak(side: str, entrants: Entrants, count: Callable[..., int] = peak_bytes) -> int:
    """Return the peak bytes of a training step of "ours" or "plain", including weights."""
    ours, plain = entrants.ours, entrants.plain
    modules = (ours, ours.clip) if side == "ours" else (ours, ours.clip, plain)
    return count(STEPS[side], ours, plain, entrants.batch) + resident_bytes(*modules)


def measured_peak(side: str, name: str, course: Course) -> int:
    """Return the peak bytes as measured by the operating system; runs in a new process."""
    torch.set_num_threads(1)
    return peak(side, course.entrants(name), measured_peak_bytes)


def alternate(
    title: str, ours: Callable[[], object], plain: Callable[[], object], repetitions: int, device: torch.device
) -> Pairs:
    """Return the seconds of both formulations; each runs first in every other repetition."""
    pairs = Pairs()
    for repetition in range(repetitions):
        sides = [ours, plain] if repetition % 2 == 0 else [plain, ours]
        taken = [seconds(side, device) for side in sides]
        pair = (taken[0], taken[1]) if repetition % 2 == 0 else (taken[1], taken[0])
        pairs.seconds.append(pair)
        print(f"{title} {repetition + 1}/{repetitions}: ours {pair[0]:.3g} s, plain {pair[1]:.3g} s", file=sys.stderr)
    return pairs


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call; with one CPU thread, this is CPU time, which other load does not affect."""
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


def main(
    methods: Annotated[list[str] | None, typer.Argument(help="Names of methods; default: all.")] = None,
    classes: Annotated[int, typer.Option(help="Number of ImageNet classes.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Real images per training step.")] = 8,
    tests: Annotated[int, typer.Option(min=1, help="Images per evaluation batch.")] = 100,
    repetitions: Annotated[int, typer.Option(min=1, help="Number of repetitions.")] = 5,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Number of PyTorch threads.")] = 1,
    room: Annotated[float, typer.Option(help="Memory limit of a step in GB.")] = 8.0,
    measure: Annotated[bool, typer.Option("--measure", help="Also measure peaks in new processes.")] = False,
) -> None:
    """Compare methods with their plain formulations, and print the table."""
    if precision not in ("fp32", "bf16"):
        raise UserError(f"--precision: {precision} is neither fp32 nor bf16")
    torch.set_num_threads(threads)
    names = methods or list(METHODS)
    for name in names:
        find_method(name)
    course = Course(classes, batch, tests, cast(Literal["fp32", "bf16"], precision), device)
    batches = math.ceil(classes * IMAGES / tests)
    print(heading(course, repetitions, batches))
    for name in names:
        result = race(course.entrants(name), repetitions, room * GIGA)
        if measure and result.bytes and result.whole:
            settings = Course(classes, batch, tests, course.precision, device)  # without cached weights
            ours, plain = (in_new_process(measured_peak, side, name, settings) for side in ("ours", "plain"))
            result.measured = ours, plain
        print(result.row(batches), flush=True)


def heading(course: Course, repetitions: int, batches: int) -> str:
    """Return the heading, the command, the machine and the table header."""
    command = "python -m benchmarks.methods " + " ".join(sys.argv[1:])
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "open_clip_torch", "syncclip"))
    return f"""## {date.today()}: {course.classes} classes, batch {course.batch}, {course.precision}, {course.device}

`{command.strip()}`

The benchmark ran with {torch.get_num_threads()} thread(s) on {os.cpu_count()} cores ({processor(course.device)}), \
using Python {platform.python_version()}, {packages}.
Each step was measured {repetitions} times; an evaluation consists of {batches} batches of {course.tests} images, \
with {IMAGES} images per class.

| method | step: ours | plain | gain | peak GB: ours | plain | share | test batch: ours | plain | gain | evaluation |
|---|---|---|---|---|---|---|---|---|---|---|"""


def processor(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    fields = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    return next((value.strip() for key, _, value in fields if key.startswith("model name")), platform.processor())


if __name__ == "__main__":
    typer.run(main)
