"""Measurements on the target device: the batch size of a plan, its throughput, and the effect of a speed."""

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
"""Time after which no further batch size is tried."""

MIN_SPEEDUP = 1.05
"""Speed-up per image that a larger batch needs to be preferred."""

TRIAL_STEPS = 4
"""Denoising steps of a trial, enough to outweigh the decoder."""

MAX_CPU_BATCH = 32
"""Larger batches save nothing on a CPU and take its memory."""

PROBE_BATCHES = 3
"""Batches of the measured shard."""

Stopwatch = Callable[[int], float | None]
"""Batch size -> seconds per batch; None: out of memory."""


def tuned(plan: Plan, located: Located, pool: Pool) -> Plan:
    """The plan of a new dataset with a measured `batch_size` in place of `auto`.

    It is measured once, in a Ray task with the resources of an actor. The stored plan keeps it, so that later runs
    generate the same batches.

    Raises:
        UserError: the generator can't be loaded or run.
    """
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
    """The settings with the fastest `batch_size` on this device in place of `auto`.

    Generates for about `BUDGET_SECONDS`.

    Args:
        device: the device that will generate, on this machine.
        fingerprint: of the weights, from `locate`.
        prompts: repeated as needed.
        largest: upper bound, the images of a shard.

    Raises:
        UserError: the generator can't be loaded, or a single image doesn't fit into memory.
    """
    if settings.batch_size != "auto":
        return settings
    trial = settings.model_copy(update={"steps": min(settings.steps, TRIAL_STEPS), "guide": None})
    stopwatch = _stopwatch(Generator(trial, device, fingerprint), prompts)
    sizes = [size for size in even_parts(largest) if device.startswith("cuda") or size <= MAX_CPU_BATCH]
    return settings.model_copy(update={"batch_size": best_batch(sizes, stopwatch)})


def even_parts(total: int) -> list[int]:
    """Sizes from 1 to `total` that cut a shard into equal batches, each about twice the previous one."""
    return sorted({-(-total // 2**halvings) for halvings in range(total.bit_length() + 1)})


def best_batch(sizes: Sequence[int], stopwatch: Stopwatch, budget: float = BUDGET_SECONDS) -> int:
    """The smallest of ascending batch sizes to which no larger one is `MIN_SPEEDUP` times as fast per image.

    Raises:
        UserError: the smallest doesn't fit into memory.
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
        raise UserError(
            f"generator: a batch of {sizes[0]} image doesn't fit into memory; use dtype=bf16, or {OOM_REMEDY}"
        )
    return next(size for size, cost in costs.items() if cost <= min(costs.values()) * MIN_SPEEDUP)


def _stopwatch(generator: Generator, prompts: Sequence[str]) -> Stopwatch:
    import torch

    def seconds(size: int) -> float | None:
        texts = [prompts[i % len(prompts)] for i in range(size)]
        best = float("inf")
        try:
            for _ in range(2):  # the first run includes one-time allocations
                begun = time.perf_counter()
                generator.generate(texts, range(size))  # returns when the images are on the CPU
                best = min(best, time.perf_counter() - begun)
                if best > BUDGET_SECONDS:
                    break
        except (torch.OutOfMemoryError, MemoryError):
            torch.cuda.empty_cache()
            return None
        return best

    return seconds


class Effect(NamedTuple):
    """Effect of a speed on a batch, relative to `exact` in fp32 with the same prompts and seeds."""

    difference: float
    """Mean absolute difference of the pixels, of 255."""
    gain: float
    """Speed-up."""


def effect(settings: GeneratorSettings, device: str, fingerprint: str, prompts: Sequence[str]) -> Effect | None:
    """Generate a batch at speed `exact` and at that of the settings; None where one doesn't fit into memory."""
    images, seconds, size = [], [], int(settings.batch_size)
    exact = settings.model_copy(update={"speed": "exact", "dtype": "fp32", "compile": False})
    for variant in (exact, settings):
        try:
            generator = Generator(variant, device, fingerprint)
        except UserError:
            return None
        if (elapsed := _stopwatch(generator, prompts)(size)) is None:
            return None
        batch = generator.generate([prompts[i % len(prompts)] for i in range(size)], range(size))
        images.append(np.stack([np.asarray(image, float) for image in batch]))
        seconds.append(elapsed)
        del generator
    return Effect(float(np.abs(images[0] - images[1]).mean()), seconds[0] / seconds[1])


class Rate(NamedTuple):
    """Measurements of one actor that generates a plan on this machine."""

    images: float
    """Throughput in finished images per second: generated, filtered, retried, encoded and written."""
    image_bytes: float
    """Bytes per image, including its share of the tar."""
    rejected: float
    """Rejected images per finished image."""
    load: float
    """Additional seconds of the first shard, to load weights and warm the device up."""
    memory: int | None = None
    """Peak GPU memory in bytes."""
    effect: Effect | None = None
    """Effect of a speed other than `exact`."""


def measure(plan: Plan, folder: str, num_gpus: float = 0.0, options: Mapping[str, Any] | None = None) -> Rate:
    """Generate a shard of `PROBE_BATCHES` batches twice, with the plan's generator and filters.

    The first run loads the weights and warms the device up, the second is measured. Rejected images are retried in
    smaller batches than those of a full shard, so many rejects make the throughput slightly too low.

    Args:
        plan: its batch size is measured first where it is `auto`.
        folder: a temporary one with the files of generator and filters (`synthetic_sets.prepare.with_assets`).
        num_gpus: GPUs per actor; 0 generates on the CPU.
        options: fsspec options of URLs that the filters read.

    Raises:
        UserError: the generator can't be found or can't generate here.
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
        raise UserError(f"the generator failed its trial: {error}")
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
