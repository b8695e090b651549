"""Measurements on the target device: fastest batch size, throughput, and the effect of the `speed` setting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from syncclip import storage
from syncclip.core.session import Session, current
from syncclip.core.settings import UserError
from syncclip.runtime.ray_session import ray_session, unwrapped
from syncclip.shards.markers import committed
from syncclip.synthesis.generators.loading import OOM_REMEDY
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import Located, locate
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.worker import ShardWorker
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

BUDGET_SECONDS = 60.0
"""Total measurement time in seconds after which no larger batch sizes are tried."""

MIN_SPEEDUP = 1.05
"""Minimum speed-up per image required to prefer a larger batch size."""

TRIAL_STEPS = 4
"""Maximum number of denoising steps in a trial; high enough that denoising takes longer than decoding."""

MAX_CPU_BATCH = 32
"""Maximum batch size on a CPU, where larger batches are not faster."""

PROBE_BATCHES = 3
"""Number of batches in the measured shard."""


def tuned(plan: Plan, located: Located, pool: Pool) -> Plan:
    """Replace a plan's `auto` batch size with the fastest batch size, measured with an actor's resources."""
    import ray

    with ray_session():
        remote: Any = ray.remote(num_cpus=plan.threads, num_gpus=pool.num_gpus, max_calls=1)(_measure_batch_size)
        generator = located.placed(plan.generator).model_copy(update={"pipeline": located.source})
        try:
            size = ray.get(remote.remote(plan.model_dump_json(), generator, pool.device, current()))
        except ray.exceptions.RayTaskError as error:
            raise unwrapped(error) from error
    return plan.model_copy(update={"generator": plan.generator.model_copy(update={"batch_size": size})})


def _measure_batch_size(plan_text: str, generator: GeneratorSettings, device: str, session: Session) -> int:
    import torch

    plan = Plan.model_validate_json(plan_text)
    torch.set_num_threads(plan.threads)
    largest = min(plan.total, plan.shard_size)
    prompts = [plan.entry(index).prompt for index in range(largest)]
    with session:
        return int(with_batch_size(generator, device, plan.weights, prompts, largest).batch_size)


def with_batch_size(
    settings: GeneratorSettings, device: str, fingerprint: str, prompts: Sequence[str], largest: int
) -> GeneratorSettings:
    """Replace `auto` with the fastest batch size up to `largest` on this device; `prompts` are repeated as needed."""
    if settings.batch_size != "auto":
        return settings
    trial = settings.model_copy(update={"steps": min(settings.steps, TRIAL_STEPS), "guide": None})
    generator = Generator(trial, device, fingerprint)
    sizes = [size for size in even_parts(largest) if device.startswith("cuda") or size <= MAX_CPU_BATCH]
    size = best_batch(sizes, lambda size: _seconds(generator, prompts, size))
    return settings.model_copy(update={"batch_size": size})


def even_parts(total: int) -> list[int]:
    """Return batch sizes from 1 to `total` that divide a shard evenly, each about twice the previous one."""
    return sorted({-(-total // 2**halvings) for halvings in range(total.bit_length() + 1)})


def best_batch(sizes: Sequence[int], stopwatch: Callable[[int], float | None], budget: float = BUDGET_SECONDS) -> int:
    """Return the smallest batch size whose time per image is at most `MIN_SPEEDUP` times the minimum.

    `sizes` are in ascending order. `stopwatch` returns the time in seconds for a batch of the given size, or None if
    the batch does not fit in memory.
    """
    costs: dict[int, float] = {}
    spent = 0.0
    for size in sizes:
        if spent > budget or (seconds := stopwatch(size)) is None:
            break
        spent += seconds
        costs[size] = seconds / size
    if not costs:
        raise UserError(
            f"generator: a batch of {sizes[0]} image doesn't fit in memory; use dtype=bf16, or {OOM_REMEDY}"
        )
    return next(size for size, cost in costs.items() if cost <= min(costs.values()) * MIN_SPEEDUP)


def _seconds(generator: Generator, prompts: Sequence[str], size: int) -> float | None:
    """Return the generation time of a batch in seconds, or None if the batch does not fit in memory."""
    import torch

    texts = [prompts[i % len(prompts)] for i in range(size)]
    best = float("inf")
    try:
        for _ in range(2):  # the first run includes one-time allocations
            start = time.perf_counter()
            generator.generate(texts, range(size))
            best = min(best, time.perf_counter() - start)
            if best > BUDGET_SECONDS:
                break
    except (torch.OutOfMemoryError, MemoryError):
        torch.cuda.empty_cache()
        return None
    return best


class Effect(NamedTuple):
    """Effect of the `speed` setting on a batch, compared with `exact` in fp32 for the same prompts and seeds."""

    difference: float
    """Mean absolute difference between pixel values (0 to 255)."""
    gain: float
    """Speed-up factor."""


def effect(settings: GeneratorSettings, device: str, fingerprint: str, prompts: Sequence[str]) -> Effect | None:
    """Return the measured effect of the `speed` setting, or None if a batch can't be generated."""
    images, seconds, size = [], [], int(settings.batch_size)
    exact = settings.model_copy(update={"speed": "exact", "dtype": "fp32", "compile": False})
    for variant in (exact, settings):
        try:
            generator = Generator(variant, device, fingerprint)
        except UserError:
            return None
        if (elapsed := _seconds(generator, prompts, size)) is None:
            return None
        batch = generator.generate([prompts[i % len(prompts)] for i in range(size)], range(size))
        images.append(np.stack([np.asarray(image, float) for image in batch]))
        seconds.append(elapsed)
        del generator
    return Effect(float(np.abs(images[0] - images[1]).mean()), seconds[0] / seconds[1])


class Rate(NamedTuple):
    """Throughput and memory usage of one actor on this machine."""

    images: float
    """Throughput in finished images per second, including filtering, retries, encoding and writing."""
    image_bytes: float
    """Stored bytes per image, including tar overhead."""
    rejected: float
    """Number of rejected images per finished image."""
    load: float
    """Overhead of the first shard in seconds, due to loading and warm-up."""
    memory: int | None = None
    """Peak GPU memory in bytes."""
    effect: Effect | None = None
    """Effect of the `speed` setting; None for `exact`, or if a batch can't be generated."""


def measure(plan: Plan, folder: str, num_gpus: float = 0.0, options: Mapping[str, Any] | None = None) -> Rate:
    """Measure the throughput of a plan's generator and filters on `PROBE_BATCHES` batches, after a warm-up run.

    The throughput is slightly underestimated if many images are rejected, since rejected images are retried in smaller
    batches than in a full shard.

    Args:
        folder: temporary folder with the plan's assets (see `synthetic_sets.prepare.with_assets`).
        num_gpus: number of GPUs per actor; 0: generate on the CPU.
        options: fsspec options for URLs that the filters read.

    Raises:
        UserError: the generator is missing or can't generate images on this machine.
    """
    import torch

    located = locate(plan.generator, plan.weights)
    device = "cuda" if num_gpus > 0 else "cpu"
    prompts = [plan.entry(index).prompt for index in plan.shard_range(0)]
    generator = with_batch_size(plan.generator, device, located.fingerprint, prompts, plan.shard_size)
    size = min(PROBE_BATCHES * int(generator.batch_size), plan.shard_size)
    plan = plan.model_copy(update={"weights": located.fingerprint, "generator": generator, "shard_size": size})
    storage.configure(options or {})
    worker = ShardWorker(plan.model_dump_json(), folder, device, located.source)
    cold, warm = (Report(**worker({"shard": 0})) for _ in range(2))
    if error := cold.error or warm.error:
        raise UserError(f"the generator failed in a trial run: {error}")
    stored = committed(folder)[0].bytes
    images, rejects = len(plan.shard_range(0)), sum(json.loads(warm.rejects).values())
    seconds = warm.ended - warm.started
    return Rate(
        images=images / seconds,
        image_bytes=stored / images,
        rejected=rejects / images,
        load=max(0.0, cold.ended - cold.started - seconds),
        memory=torch.cuda.max_memory_allocated() if num_gpus > 0 else None,
        effect=None if generator.speed == "exact" else effect(generator, device, located.fingerprint, prompts),
    )
