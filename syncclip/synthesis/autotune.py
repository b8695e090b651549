"""What has to be measured where a set will be generated: the open batch size and attention of a plan, and its rate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from syncclip import storage
from syncclip.core.session import Session, current
from syncclip.core.settings import UserError
from syncclip.runtime.ray_session import cause_of, ray_session
from syncclip.shards.markers import committed
from syncclip.synthesis.generators.autotune import Effect, answered, effect
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import Located, locate
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.settings import Pool
from syncclip.synthesis.status import Report
from syncclip.synthesis.worker import ShardWorker


def tuned(plan: Plan, located: Located, pool: Pool) -> Plan:
    """The plan of a new set with numbers where it said `auto`; see `GeneratorSettings.open_questions`.

    They are measured once, in a Ray task that gets what an actor will get; the plan that is then written into the set's
    folder keeps them, so that every later run generates the same batches.

    Raises:
        UserError: the generator can't be loaded or run.
    """
    import ray

    with ray_session():
        remote: Any = ray.remote(num_cpus=plan.threads, num_gpus=pool.num_gpus, max_calls=1)(_answers)
        generator = located.placed(plan.generator).model_copy(update={"pipeline": located.source})
        try:
            found = ray.get(remote.remote(plan.model_dump_json(), generator, pool.device, current()))
        except ray.exceptions.RayTaskError as error:
            raise cause_of(error) from error
    return plan.model_copy(update={"generator": plan.generator.model_copy(update=found)})


def _answers(plan_text: str, generator: GeneratorSettings, device: str, session: Session) -> dict[str, Any]:
    """What was found, by the settings' names."""
    import torch

    plan = Plan.model_validate_json(plan_text)
    torch.set_num_threads(plan.threads)
    largest = min(plan.total, plan.shard_size)
    prompts = [plan.entry(index).prompt for index in range(largest)]
    with session:
        found = answered(generator, device, plan.weights, prompts, largest)
    return {"batch_size": found.batch_size, "attention": found.attention}


BATCHES = 3
"""Of the shard that is measured."""


class Rate(NamedTuple):
    """What one actor makes of a plan on this machine."""

    images: float
    """Finished images a second: generated, filtered, generated again where rejected, encoded and written."""
    image_bytes: float
    """Of an image in the set, its share of the tar included."""
    rejected: float
    """Images that filters sent back for each finished one."""
    load: float
    """Seconds that the first shard takes longer: weights are read, the device warms up."""
    memory: int | None = None
    """Most bytes of a GPU that were taken."""
    effect: Effect | None = None
    """Of a speed other than `exact`."""


def measure(plan: Plan, folder: str, num_gpus: float = 0.0, options: Mapping[str, Any] | None = None) -> Rate:
    """Generate a shard of `BATCHES` batches twice, with the plan's generator and filters.

    The first time loads the weights and warms the device up, the second is measured. Rejected images are generated
    again in smaller batches than a whole shard would give, so many rejects make the rate a little too low.

    Args:
        plan: where the generator's batch size is open, it is found first.
        folder: a temporary one that holds what generator and filters need (`sets.prepare.with_assets`).
        num_gpus: of an actor; 0 generates on the CPU.
        options: fsspec options of places that the filters read.

    Raises:
        UserError: the generator can't be found or can't generate here.
    """
    import torch

    located = locate(plan.generator, plan.weights)
    device = "cuda" if num_gpus > 0 else "cpu"
    prompts = [plan.entry(index).prompt for index in plan.shard_range(0)]
    generator = answered(plan.generator, device, located.fingerprint, prompts, plan.shard_size)
    size = min(BATCHES * int(generator.batch_size), plan.shard_size)
    plan = plan.model_copy(update={"weights": located.fingerprint, "generator": generator, "shard_size": size})
    storage.configure(options or {})
    make = ShardWorker(plan.model_dump_json(), folder, device, located.source)
    cold, warm = (Report(**make({"shard": 0})) for _ in range(2))
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
