"""A SYNC-CLIP step in milliseconds: ours at each precision, compiled and as a CUDA graph, beside the authors' in fp16.

The authors' code holds CLIP's weights in fp16 and runs every token of the full context through every block, as
`benchmarks.plain` does. Every formulation takes its turn in every round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd import backward

from benchmarks.course import Course
from benchmarks.gpu.measuring import Row, free, peak
from benchmarks.methods import seconds
from syncclip.core.text import first_line
from syncclip.stream.batch import Batch
from syncclip.synthesis.generators.loading import BACKEND

MODELS = ("ViT-B-16-quickgelu", "ViT-L-14-quickgelu")
STEPS = (
    "authors, fp16",
    "ours, fp32",
    "ours, bf16",
    "ours, bf16, compiled",
    "ours, bf16, CUDA graph",
    "ours, bf16, batch from memory",
    "ours, bf16, batch from page-locked memory",
)
WHATS = tuple(f"{model}: {step}" for model in MODELS for step in STEPS)
ROUNDS = 10
WARM_UP = 3
"""Steps before the first that counts, in which code is compiled and memory allocated."""

Step = Callable[[], object]


def rows(device: str, models: tuple[str, ...] = MODELS, classes: int = 100, batch: int = 8) -> Iterator[Row]:
    """A row for each of `STEPS` with each CLIP.

    Args:
        classes: half of them base classes.
        batch: real images of a step; there are twice as many synthetic ones.
    """
    for model in models:
        steps: dict[str, Step] = {}
        facts: dict[str, Row] = {}
        for what in STEPS:
            name = f"{model}: {what}"
            try:
                held = free(device)
                step = _step(what, Course(classes, batch, 1, "bf16" if "bf16" in what else "fp32", device, model))
                for _ in range(WARM_UP):
                    step()
            except Exception as error:  # of the compiler, of memory, or of what no graph can hold: the others go on
                yield {"what": name, "left_out": first_line(error)}
                continue
            steps[what], most = step, peak(device)
            above = None if most is None else round(most - held, 2)  # its own CLIP included
            facts[what] = {"what": name, "batch": batch, "classes": classes, "peak_gb": above}
        taken: dict[str, list[float]] = {what: [] for what in steps}
        for number in range(ROUNDS):
            for what in list(steps)[:: 1 if number % 2 else -1]:
                taken[what].append(seconds(steps[what], torch.device(device)))
        yield from ({**facts[what], "seconds": statistics.median(each)} for what, each in taken.items())


def _step(what: str, course: Course) -> Step:
    """Forward and backward of one batch."""
    theirs = what.startswith("authors")
    if theirs:
        course.clip.backbone.model.half()
    entrants = course.entrants("syncclip")
    ours, plain, given = entrants.ours.train(), entrants.plain, entrants.batch
    if theirs:
        return lambda: backward(plain.loss(given))
    if "memory" in what:
        waiting = Batch(given.images.cpu(), given.labels.cpu(), given.domains.cpu(), given.sizes)
        waiting = waiting.pin_memory() if "page-locked" in what else waiting
        return lambda: backward(ours.loss(waiting.to(course.device))["total"])

    def loss() -> Tensor:
        return ours.loss(given)["total"]

    if "compiled" in what:
        compiled = torch.compile(loss, backend=BACKEND, dynamic=False)
        return lambda: backward(compiled())
    return _graph(lambda: backward(loss())) if "graph" in what else lambda: backward(loss())


def _graph(step: Step) -> Step:
    """The same step, whose kernels are started all at once; see CUDA graphs in torch's manual."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
