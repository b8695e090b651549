"""Time of a SYNC-CLIP step: ours in each precision, compiled and as a CUDA graph, and the authors' in fp16.

The authors' code keeps CLIP's weights in fp16 and runs every token of the full context through every block, as
`benchmarks.plain` does. The formulations are measured alternately.
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
"""Number of warm-up steps, during which code is compiled and memory is allocated."""

Step = Callable[[], object]


def rows(device: str, models: tuple[str, ...] = MODELS, classes: int = 100, batch: int = 8) -> Iterator[Row]:
    """Yield the rows in `STEPS` for each CLIP model.

    Args:
        classes: number of classes, half of which are base classes.
        batch: number of real images per step; twice as many synthetic images are added.
    """
    for model in models:
        steps: dict[str, Step] = {}
        facts: dict[str, Row] = {}
        for what in STEPS:
            name = f"{model}: {what}"
            try:
                allocated = free(device)
                step = _step(what, Course(classes, batch, 1, "bf16" if "bf16" in what else "fp32", device, model))
                for _ in range(WARM_UP):
                    step()
            except Exception as error:  # a compiler error, out of memory, not capturable: other rows continue
                yield {"what": name, "left_out": first_line(error)}
                continue
            steps[what], largest = step, peak(device)
            memory = None if largest is None else round(largest - allocated, 2)  # CLIP included
            facts[what] = {"what": name, "batch": batch, "classes": classes, "peak_gb": memory}
        taken: dict[str, list[float]] = {what: [] for what in steps}
        for number in range(ROUNDS):
            for what in list(steps)[:: 1 if number % 2 else -1]:
                taken[what].append(seconds(steps[what], torch.device(device)))
        yield from ({**facts[what], "seconds": statistics.median(times)} for what, times in taken.items())


def _step(what: str, course: Course) -> Step:
    """Return a function that runs the forward and backward pass of one batch."""
    theirs = what.startswith("authors")
    if theirs:
        course.clip.backbone.model.half()
    entrants = course.entrants("syncclip")
    ours, plain, batch = entrants.ours.train(), entrants.plain, entrants.batch
    if theirs:
        return lambda: backward(plain.loss(batch))
    if "memory" in what:
        host = Batch(batch.images.cpu(), batch.labels.cpu(), batch.domains.cpu(), batch.sizes)
        host = host.pin_memory() if "page-locked" in what else host
        return lambda: backward(ours.loss(host.to(course.device))["total"])

    def loss() -> Tensor:
        return ours.loss(batch)["total"]

    if "compiled" in what:
        compiled = torch.compile(loss, backend=BACKEND, dynamic=False)
        return lambda: backward(compiled())
    return _graph(lambda: backward(loss())) if "graph" in what else lambda: backward(loss())


def _graph(step: Step) -> Step:
    """Capture a step in a CUDA graph, whose kernels are launched together."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
