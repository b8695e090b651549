"""Throughput of a model with plain diffusers at its best batch size, and with each of our speed settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from benchmarks.gpu.measuring import Row, free, measured
from benchmarks.gpu.shapes import FAMILIES, write_index
from benchmarks.methods import seconds
from syncclip.synthesis.autotune import TRIAL_STEPS, best_batch
from syncclip.synthesis.generators.arguments import call_arguments
from syncclip.synthesis.generators.loading import load
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import locate

SPEEDS = ("exact", "fast", "max")
WHATS = ("plain", *SPEEDS, "plain again")
"""Names of the rows, in the order of measurement; the last row shows whether the machine's speed has changed."""

BATCHES = (1, 2, 4, 8, 16, 32)
SEARCH = 20.0
"""Time limit in seconds for the search for the best batch size."""

PROMPTS = [f"a photo of a {name}." for name in IMAGENET_CLASSNAMES[: BATCHES[-1]]]


def rows(family: str, device: str, work: Path, tiny: bool = False) -> Iterator[Row]:
    """Yield the rows in `WHATS`; all variants use bf16 and the same batch size.

    Args:
        work: folder for the model's index.
        tiny: whether to use the small pipeline of the same class.
    """
    model, folder = FAMILIES[family], write_index(work, family, tiny)
    size = {"height": 64, "width": 64} if tiny else {}
    settings = model.settings(folder, **size)
    batch = _best(settings, device)
    facts = {"batch": batch, "steps": settings.steps, "side": settings.height}

    def row(what: str, prepare: Callable[[], Callable[[], object]]) -> Row:
        cost = measured(what, prepare, device, **facts)
        return cost if "left_out" in cost else {**cost, "images_s": round(batch / cost["seconds"], 3)}

    yield row("plain", lambda: _plain(settings, device, batch))
    for speed in SPEEDS:
        own = model.settings(folder, **size, speed=speed, batch_size=batch)
        yield row(speed, lambda own=own: _ours(own, device, batch))  # type: ignore[misc]
    yield row("plain again", lambda: _plain(settings, device, batch))


def _best(settings: GeneratorSettings, device: str) -> int:
    """Return the batch size with the highest throughput of the plain call, measured with few steps."""
    few = settings.model_copy(update={"steps": min(settings.steps, TRIAL_STEPS)})
    pipeline = load(few, locate(few), device)

    def stopwatch(size: int) -> float | None:
        call = _call(pipeline, few, device, size)
        try:
            return min(seconds(call, torch.device(device)) for _ in range(2))
        except torch.OutOfMemoryError:
            free(device)
            return None

    return best_batch(BATCHES, stopwatch, SEARCH)


def _plain(settings: GeneratorSettings, device: str, batch: int) -> Callable[[], object]:
    return _call(load(settings, locate(settings), device), settings, device, batch)


def _call(pipeline: Any, settings: GeneratorSettings, device: str, batch: int) -> Callable[[], object]:
    """Return a plain diffusers call: strings in, PIL images out, noise sampled on the device."""
    arguments = call_arguments(pipeline, settings)

    def call() -> object:
        noise = [torch.Generator(device).manual_seed(seed) for seed in range(batch)]
        with torch.inference_mode():
            return pipeline(prompt=PROMPTS[:batch], generator=noise, **arguments).images

    return call


def _ours(settings: GeneratorSettings, device: str, batch: int) -> Callable[[], object]:
    generator = Generator(settings, device)
    assert generator.texts is not None
    generator.texts.encode_ahead(PROMPTS)
    return lambda: generator.generate(PROMPTS[:batch], range(batch))
