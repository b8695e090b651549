"""A generator that costs time and nothing else, in the place of diffusers, and a command that draws a set with it.

`python -m tests.worlds.light PLAN URL ACTORS` is `syncclip synth` but for the images: same graph, same actors, same
storage. It reads its pace, its ledger if one is kept, and the S3 endpoint if the set lies there, from the environment,
as its actors do.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.synthesis import driver
from syncclip.synthesis.filters import build_filters
from syncclip.synthesis.plan import Plan, draft
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.synthesis.worker import ShardWorker
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

PACE, LEDGER = "LIGHT_PACE", "LIGHT_LEDGER"
CLASSES, BATCH = 8, 4
USUAL_PACE = 0.02
"""Seconds an image, where the environment names no pace: a shard can be hit in the middle."""


class Note(NamedTuple):
    """A line of the ledger: what an actor did."""

    time: float
    actor: int
    deed: str
    """`draw`: it begins a batch; `fail`: a shard could not be drawn or written, and will be drawn again."""
    images: int


class LightGenerator:
    """Images of noise that follow, like their contrast, from their seeds, so many seconds each; each batch is noted
    when it is begun."""

    computed = 0.0

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> Callable[[], list[Image.Image]]:
        write_note("draw", len(seeds))
        time.sleep(float(os.environ.get(PACE, USUAL_PACE)) * len(prompts))
        noise = [np.random.default_rng(seed) for seed in seeds]
        return lambda: [Image.fromarray(one.integers(0, one.integers(2, 256), (16, 16, 3), np.uint8)) for one in noise]


class LightWorker(ShardWorker):
    """The worker with a light generator."""

    def tools(self) -> tuple[Any, list[Any]]:
        return LightGenerator(), build_filters(self.plan.filters, self.plan.classnames)

    def commit(self, unwritten: Any) -> Report:
        report = super().commit(unwritten)
        if report.error:
            write_note("fail", len(self.plan.shard_range(report.shard)))
        return report


def light_plan(shards: int, shard_size: int) -> Plan:
    """A plan of so many shards; it names a pipeline that exists, which is never loaded."""
    images, rest = divmod(shards * shard_size, CLASSES)
    assert rest == 0
    generator = {"pipeline": "icons", "batch_size": BATCH}
    asked = SynthesisSettings(images_per_class=images, shard_size=shard_size, generator=generator, filters=())
    names = [f"class {label}" for label in range(CLASSES)]
    return draft(asked, dataset="light", classnames=names, template="a {}.")


def write_note(deed: str, images: int) -> None:
    """Add a line to the ledger, if one is kept, at once: whoever is killed next has written it."""
    if LEDGER not in os.environ:
        return
    line = f"{time.time():.3f} {os.getpid()} {deed} {images}\n"
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def read_notes(ledger: Path) -> list[Note]:
    """All that actors did, in the order of time; a line that is still being written is left for the next read."""
    rows = [line.split() for line in ledger.read_text().rpartition("\n")[0].splitlines()]
    return sorted(Note(float(when), int(actor), deed, int(images)) for when, actor, deed, images in rows)


def main(plan: str, url: str, actors: int) -> int:
    """Draw what is missing of the set; 0 when it is complete, 2 where it gave up with a sentence."""
    from syncclip.runtime.ray_session import ray_session

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3")
    options = {"endpoint_url": endpoint} if endpoint else {}
    storage.configure(options)
    driver.ShardWorker = LightWorker  # type: ignore[misc]
    asked = Plan.model_validate_json(Path(plan).read_text())
    try:
        with ray_session(cpus=actors):
            driver.synthesise_set(asked, url, Pool(actors), show=False)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    from tests.worlds import light  # by its own name, so that actors find the class

    sys.exit(light.main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
