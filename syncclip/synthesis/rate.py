"""How fast this machine draws a plan: measured by drawing a few batches of it, as an actor would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from syncclip.settings import UserError
from syncclip.shards.layout import committed
from syncclip.synthesis.generators import locate
from syncclip.synthesis.generators.probing import answered
from syncclip.synthesis.maker import Report, ShardMaker
from syncclip.synthesis.plan import Plan

BATCHES = 3
"""Of the shard that is measured."""


class Rate(NamedTuple):
    """What one actor makes of a plan on this machine."""

    images: float
    """Finished pictures a second: drawn, judged, drawn again where a filter said so, encoded and written."""
    image_bytes: float
    """Of a picture in the set, its share of the tar included."""
    rejected: float
    """Pictures that filters sent back for each finished one."""
    load: float
    """Seconds that the first shard takes longer: weights are read, the device warms up."""


def measure(plan: Plan, folder: str, num_gpus: float = 0.0, options: Mapping[str, Any] | None = None) -> Rate:
    """Draw a shard of `BATCHES` batches twice, with the plan's generator and filters.

    The first time loads the weights and warms the device up, the second is measured. Rejected pictures are drawn again
    in smaller batches than a whole shard would give, so many rejects make the rate a little too low.

    Args:
        plan: where the generator's batch size is open, it is found first.
        folder: a temporary one, in which lies what generator and filters need (`assembly.with_material`).
        num_gpus: of an actor; 0 draws on the CPU.
        options: fsspec options of places that the filters read.

    Raises:
        UserError: the generator can't be found or can't draw here.
    """
    located = locate(plan.generator, plan.weights)
    device = "cuda" if num_gpus > 0 else "cpu"
    prompts = [plan.entry(index).prompt for index in plan.shard_range(0)]
    generator = answered(plan.generator, device, located.fingerprint, prompts, plan.shard_size)
    size = min(BATCHES * int(generator.batch_size), plan.shard_size)
    plan = plan.model_copy(update={"weights": located.fingerprint, "generator": generator, "shard_size": size})
    make = ShardMaker(plan.model_dump_json(), folder, device, located.source, dict(options or {}))
    cold, warm = (Report(**make({"shard": 0})) for _ in range(2))
    if error := cold.error or warm.error:
        raise UserError(f"the generator could not be tried: {error}")
    stored = committed(folder)[0].bytes
    images, rejects = len(plan.shard_range(0)), sum(json.loads(warm.rejects).values())
    seconds = warm.ended - warm.started
    return Rate(
        images=images / seconds,
        image_bytes=stored / images,
        rejected=rejects / images,
        load=max(0.0, cold.ended - cold.started - seconds),
    )
