"""The batch size and the attention that are fastest on this machine: measured once, then part of the plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from syncclip.core.settings import UserError
from syncclip.synthesis.generators.loading import LARGER, set_attention
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings

BUDGET = 60.0
"""Seconds after which no further batch size is tried."""

GAIN = 1.05
"""A larger batch, or another attention, must be so many times faster to be taken."""

STEPS = 4
"""Denoising steps of a trial: enough for them to outweigh the decoder."""

CPU_LARGEST = 32
"""Batches of more images save nothing on a CPU and take its memory."""

Stopwatch = Callable[[int], float | None]
"""Batch size -> seconds for one batch; None where it doesn't fit into memory."""


def answered(
    settings: GeneratorSettings, device: str, fingerprint: str, prompts: Sequence[str], largest: int
) -> GeneratorSettings:
    """The settings with a number for `batch_size` and, if xformers was measured, a name for `attention`.

    Generates for about `BUDGET` seconds, once; on a GPU that other work shares, the answer is one for that state.

    Args:
        device: where the set will be generated; this process must be there.
        fingerprint: of the weights, as `locate` gave it.
        prompts: what is generated; repeated as needed.
        largest: the largest batch that can occur, the images of a shard.

    Raises:
        UserError: the generator can't be loaded, or not even one image fits into memory.
    """
    if not settings.open_questions(device):
        return settings
    trial = settings.model_copy(update={"steps": min(settings.steps, STEPS), "guide": None})
    generator = Generator(trial, device, fingerprint)
    stopwatch = _stopwatch(generator, prompts)
    if settings.batch_size == "auto":
        sizes = [size for size in even_parts(largest) if device.startswith("cuda") or size <= CPU_LARGEST]
        settings = settings.model_copy(update={"batch_size": best_batch(sizes, stopwatch)})
    if settings.open_attention(device):
        assert settings.batch_size != "auto"
        xformers_is_faster = _xformers_is_faster(generator, settings.batch_size, stopwatch)
        settings = settings.model_copy(update={"attention": "xformers" if xformers_is_faster else "sdpa"})
    return settings


class Effect(NamedTuple):
    """What a speed does to the images of a batch, beside those of `exact` in fp32: same prompts, same seeds."""

    difference: float
    """Mean absolute difference of their bytes, of 255."""
    gain: float
    """How many times faster it is, once both are warm."""


def effect(settings: GeneratorSettings, device: str, fingerprint: str, prompts: Sequence[str]) -> Effect | None:
    """Generate a batch at the speed `exact` and at that of the settings; None where one doesn't fit into memory."""
    images, seconds, size = [], [], int(settings.batch_size)
    exact = settings.model_copy(update={"speed": "exact", "dtype": "fp32", "compile": False})
    for one in (exact, settings):
        try:
            generator = Generator(one, device, fingerprint)
        except UserError:
            return None
        if (took := _stopwatch(generator, prompts)(size)) is None:
            return None
        made = generator.generate([prompts[i % len(prompts)] for i in range(size)], range(size))
        images.append(np.stack([np.asarray(image, float) for image in made]))
        seconds.append(took)
        del generator
    return Effect(float(np.abs(images[0] - images[1]).mean()), seconds[0] / seconds[1])


def even_parts(whole: int) -> list[int]:
    """1 … `whole`: sizes that cut a shard into equal batches, each about twice the one before."""
    return sorted({-(-whole // 2**halvings) for halvings in range(whole.bit_length() + 1)})


def best_batch(sizes: Sequence[int], stopwatch: Stopwatch, budget: float = BUDGET) -> int:
    """The smallest of ascending batch sizes to which no larger one is `GAIN` times as fast an image.

    Raises:
        UserError: not even the smallest fits into memory.
    """
    costs: dict[int, float] = {}
    spent = 0.0
    for size in sizes:
        if spent > budget:
            break
        seconds = stopwatch(size)
        if seconds is None:
            break
        spent += seconds
        costs[size] = seconds / size
    if not costs:
        raise UserError(f"generator: not even {sizes[0]} image at once fits into memory; use dtype=bf16, or {LARGER}")
    return next(size for size, cost in costs.items() if cost <= min(costs.values()) * GAIN)


def _stopwatch(generator: Generator, prompts: Sequence[str]) -> Stopwatch:
    import torch

    def seconds(size: int) -> float | None:
        texts = [prompts[i % len(prompts)] for i in range(size)]
        best = float("inf")
        try:
            for _ in range(2):  # the first time includes what is chosen and allocated once
                begun = time.perf_counter()
                generator.generate(texts, range(size))  # ends when the images are on the CPU
                best = min(best, time.perf_counter() - begun)
                if best > BUDGET:
                    break
        except (torch.OutOfMemoryError, MemoryError):
            torch.cuda.empty_cache()
            return None
        return best

    return seconds


def _xformers_is_faster(generator: Generator, size: int, stopwatch: Stopwatch) -> bool:
    """Whether a batch takes `GAIN` times as long with PyTorch's attention; where xformers fails, it isn't."""
    plain = stopwatch(size)
    try:
        set_attention(generator.pipeline, "xformers", generator.device)
        other = stopwatch(size)
    except (UserError, RuntimeError, NotImplementedError):
        return False
    finally:
        set_attention(generator.pipeline, "sdpa", generator.device)
    return plain is not None and other is not None and plain > other * GAIN
