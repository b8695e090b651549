"""A generator of noise images instead of diffusers, and a command that synthesises a dataset with it.

`python -m tests.worlds.light PLAN URL ACTORS [SHARDS]` uses the job, actors and storage of `syncclip synth`. The
environment contains the seconds per image, the file of the ledger, and the S3 endpoint.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.synthesis import driver
from syncclip.synthesis.filters import build_filters
from syncclip.synthesis.plan import Plan, draft, parse_shards
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.synthesis.worker import ShardWorker
from syncclip.workers import job
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

PACE, LEDGER = "LIGHT_PACE", "LIGHT_LEDGER"
CLASSES, BATCH = 8, 4
USUAL_PACE = 0.02
"""Default seconds per image, so that a kill can hit the middle of a shard."""


class Note(NamedTuple):
    """A line of the ledger: an event of an actor."""

    time: float
    actor: int
    event: str
    """`draw`: a batch begins; `fail`: a shard could not be generated or written, and is retried; `load`: an actor
    loads the generator; `execute`: the driver starts an execution of the actor pool."""
    images: int


class LightGenerator:
    """Generates noise images whose contrast depends on the seed; records the beginning of each batch."""

    computed = 0.0

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> Callable[[], list[Image.Image]]:
        write_note("draw", len(seeds))
        time.sleep(float(os.environ.get(PACE, USUAL_PACE)) * len(prompts))
        noise = [np.random.default_rng(seed) for seed in seeds]
        return lambda: [Image.fromarray(rng.integers(0, rng.integers(2, 256), (16, 16, 3), np.uint8)) for rng in noise]


class LightWorker(ShardWorker):
    """Worker with the light generator."""

    def tools(self) -> tuple[Any, list[Any]]:
        write_note("load", 0)
        return LightGenerator(), build_filters(self.plan.filters, self.plan.classnames)

    def commit(self, unwritten: Any) -> Report:
        report = super().commit(unwritten)
        if report.error:
            write_note("fail", len(self.plan.shard_range(report.shard)))
        return report


def light_plan(shards: int, shard_size: int, *, batch_size: int = BATCH) -> Plan:
    """Return a plan with a number of shards; its pipeline exists but is never loaded."""
    images, rest = divmod(shards * shard_size, CLASSES)
    assert rest == 0
    generator = {"pipeline": "icons", "batch_size": batch_size}
    settings = SynthesisSettings(images_per_class=images, shard_size=shard_size, generator=generator, filters=())
    names = [f"class {label}" for label in range(CLASSES)]
    return draft(settings, dataset="light", classnames=names, template="a {}.")


def write_note(event: str, images: int) -> None:
    """Append a line to the ledger, if there is one, in a single write that survives a kill."""
    if LEDGER not in os.environ:
        return
    line = f"{time.time():.3f} {os.getpid()} {event} {images}\n"
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def read_notes(ledger: Path) -> list[Note]:
    """Read the events of all actors in order of time, without an incomplete last line."""
    rows = [line.split() for line in ledger.read_text().rpartition("\n")[0].splitlines()]
    return sorted(Note(float(when), int(actor), event, int(images)) for when, actor, event, images in rows)


def _counted(run_pool: Callable[..., Iterator[Report]]) -> Callable[..., Iterator[Report]]:
    """Return `run_pool`, which then records each execution."""

    def run(*arguments: Any, **options: Any) -> Iterator[Report]:
        write_note("execute", 0)
        return run_pool(*arguments, **options)

    return run


def main(plan: str, url: str, actors: int, shards: str | None = None) -> int:
    """Generate the missing shards, or those of a range; returns 0 if they are complete, and 2 after an error."""
    from syncclip.runtime.ray_session import ray_session

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3")
    options = {"endpoint_url": endpoint} if endpoint else {}
    storage.configure(options)
    driver.ShardWorker = LightWorker  # type: ignore[misc]
    job.run_pool = _counted(job.run_pool)
    parsed = Plan.model_validate_json(Path(plan).read_text())
    try:
        with ray_session(cpus=actors):
            if shards is not None:
                part = parse_shards(shards, len(parsed.shards()))
                driver.synthesise_part(parsed, url, part, Pool(actors), show=False)
            if shards is None or driver.has_all(parsed, url):
                driver.synthesise_set(parsed, url, Pool(actors), show=False)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    from tests.worlds import light  # under its module name, so that actors find the class

    sys.exit(light.main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
