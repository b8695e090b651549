"""Ten million images: the shards of a folder or bucket classified on Ray, a table beside each, then its marker.

A row of the pool is a shard, whose images an actor's own threads decode while it computes. What a table holds follows
from the run and the shard, so neither the number of actors nor a kill changes a byte of it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import torch
from pydantic import ValidationError

from syncclip import storage
from syncclip.core.progress import Progress
from syncclip.core.ray_session import ray_session
from syncclip.core.settings import Settings, UserError
from syncclip.core.trust import trust, trusted
from syncclip.inference.answers import SCHEMA, classify
from syncclip.inference.model import BATCH, Model, load
from syncclip.recipe.recipe import digest
from syncclip.runs.classes import read_classes
from syncclip.runs.resolve import finished_run
from syncclip.shards.markers import CHUNK
from syncclip.storage.leases import working_for
from syncclip.storage.places import absolute, configured
from syncclip.synthesis.driver import check_capacity
from syncclip.synthesis.pool import rounds, run_round
from syncclip.synthesis.settings import ONE_ACTOR, Pool
from syncclip.synthesis.status import Report
from syncclip.synthesis.worker import failed
from syncclip.training.run_folder import PROMPTS

TABLE, MARKER = "_answers.parquet", "_answers.json"
"""What the files of a shard end with, in place of `.tar`."""


class ShardAnswers(Settings):
    """Content of a shard's marker: what was asked, of which shard, and what came of it."""

    format: Literal[1] = 1
    asked: str
    """Digest of the run, and of what it was asked."""
    shard_bytes: int
    images: int
    unread: int
    """Of these, those that could not be read."""


class Classified(NamedTuple):
    """A folder of shards whose tables are all there."""

    url: str
    shards: int
    images: int
    unread: int


def _leave_out(place: str, damage: UserError) -> None:
    """Of a damaged marker: as if it had never been written."""


@dataclass(frozen=True)
class _Job:
    """What actors are told. Shards go by their place in `sizes`, name -> bytes of each tar."""

    run: str
    url: str
    out: str
    sizes: Mapping[str, int]
    asked: str
    top: int
    batch: int
    threads: int
    device: str
    classes: Sequence[str]
    places: Mapping[str, str | None]
    lease: str | None
    options: Mapping[str, Any] = field(default_factory=configured)
    code: Sequence[str] = field(default_factory=trusted)

    def place(self, name: str, ending: str) -> str:
        """Where a file of a shard is."""
        return storage.join(self.out, name.removesuffix(".tar") + ending)

    def done(self) -> dict[str, ShardAnswers]:
        """Shard -> marker of those whose tables are there, of the tar as it is now.

        Raises:
            UserError: a table answers something else.
        """
        there, found = storage.sizes(self.out), dict[str, ShardAnswers]()
        stems = [name for name in self.sizes if {name[:-4] + TABLE, name[:-4] + MARKER} <= there.keys()]
        for first in range(0, len(stems), CHUNK):
            places = {self.place(name, MARKER): name for name in stems[first : first + CHUNK]}
            for place, text in storage.read_many(list(places), _leave_out).items():
                try:
                    marker = ShardAnswers.model_validate_json(text)
                except ValidationError:
                    continue  # of an earlier version, or cut off
                if marker.asked != self.asked:
                    raise UserError(
                        f"{place}: these answers are of another run, other classes or settings; choose another --out, "
                        f"or remove the files *{TABLE} and *{MARKER}"
                    )
                if marker.shard_bytes == self.sizes[places[place]]:
                    found[places[place]] = marker
        return found

    def left(self) -> list[int]:
        """The shards that have no table yet."""
        done = self.done()
        return [number for number, name in enumerate(self.sizes) if name not in done]

    def failure(self, number: int, cause: str, left: int) -> str:
        """What is said of a shard that failed for good."""
        count = len(self.sizes)
        return (
            f"{storage.join(self.url, list(self.sizes)[number])} could not be classified: {cause}; {count - left} of "
            f"{count} shards have their tables in {self.out}, and the same command goes on from there"
        )


def classify_shards(
    run: str,
    url: str,
    out: str | None = None,
    *,
    classes: Sequence[str] = (),
    top: int = 5,
    batch: int = BATCH,
    pool: Pool = ONE_ACTOR,
    places: Mapping[str, str | None] | None = None,
) -> Classified:
    """Classify the images of all tars in a folder, on a pool of Ray's actors.

    Of `00000.tar` the table is `00000_answers.parquet`, its columns `answers.SCHEMA`, with images called
    `00000.tar/000000017.jpg`. Killed at any time, the same call goes on with the shards that have none.

    Args:
        run: folder or URL of a finished run.
        url: of the tars; one that every machine sees, where several work.
        out: folder or URL of the tables; by default beside the tars.
        classes: instead of the run's own.
        top: classes of each image.
        batch: images in one forward pass; like the device, it may decide a probability's last bits.
        pool: who works.
        places: `backbone` and `pretrained` of `load`, where the CLIP has moved.

    Raises:
        UserError: there is no tar or no run; tables there answer something else; or shards failed for good.
    """
    url, run = absolute(url), absolute(run)
    sizes = {name: size for name, size in sorted(storage.sizes(url).items()) if name.endswith(".tar")}
    if not sizes:
        raise UserError(f"{url}: no tar is in this folder; give the folder of the shards, or leave out --actors")
    recipe, folder = finished_run(run)
    prompts = hashlib.sha256(storage.read_bytes(folder.path(PROMPTS))).hexdigest()
    known = read_classes(recipe, folder).model_dump(mode="json")
    asked = digest([recipe.hash, prompts, known, list(classes), top, batch, pool.device])
    out, threads = absolute(out or url), recipe.training.threads
    with storage.lease(out, "classify") as hold:
        job = _Job(run, url, out, sizes, asked, top, batch, threads, pool.device, classes, places or {}, hold.token)
        if todo := job.left():
            check_capacity(pool, threads, "--actors", "--num-gpus")
            step = partial(run_round, worker=partial(ShardClassifier, job), pool=pool, threads=threads)
            with Progress(len(sizes), "shards", "classify", done=len(sizes) - len(todo)) as line, ray_session():
                images = 0
                for report in rounds(todo, job.left, job.failure, pool.retries, step):
                    storage.leases.check(out)
                    images += report.images
                    line.update(0 if report.error else 1, images=images)
        done = job.done().values()
        storage.require(out, [name[:-4] + ending for name in sizes for ending in (TABLE, MARKER)])
    return Classified(out, len(done), sum(one.images for one in done), sum(one.unread for one in done))


class ShardClassifier:
    """An actor's worker, see `synthesis.pool.Worker`."""

    def __init__(self, job: _Job) -> None:
        trust(*job.code)  # as the process does that makes the actor
        self.job, self.names = job, list(job.sizes)
        self._model: Model | None = None

    def generate(self, shard: int) -> tuple[Report, pa.Table | None]:
        """The answers about a shard's images, in memory."""
        report, job, name = Report(shard, started=time.time()), self.job, self.names[shard]
        report = report._replace(worker=f"{platform.node()}:{os.getpid()}")
        try:
            place = storage.join(job.url, name)
            found = classify(self.model(), [place], job.top, job.batch, unreadable=storage.UnreachableError)
            rows = [answer.row for answer in found]
            for row in rows:
                row["image"] = row["image"].removeprefix(storage.join(job.url, ""))
            return report._replace(images=len(rows)), pa.Table.from_pylist(rows, SCHEMA)
        except Exception as error:
            return failed(report, error), None

    def commit(self, uncommitted: tuple[Report, pa.Table | None]) -> Report:
        """Write a shard's table, its marker last."""
        (report, table), begun, job = uncommitted, time.time(), self.job
        if table is not None:
            name = self.names[report.shard]
            unread = table.num_rows - table["error"].null_count
            marker = ShardAnswers(asked=job.asked, shard_bytes=job.sizes[name], images=table.num_rows, unread=unread)
            try:
                with working_for(job.out, job.lease):
                    storage.write_table(job.place(name, TABLE), table)
                    storage.write_document(job.place(name, MARKER), marker)
            except Exception as error:
                report = failed(report, error)
        ended = time.time()
        return report._replace(write=ended - begun, ended=ended)

    def model(self) -> Model:
        """The model, loaded once, at the first shard: an error there must come back as a row, too."""
        if self._model is None:
            torch.set_num_threads(self.job.threads)  # the last bits of a sum depend on it
            storage.give(self.job.options)  # the run says others of its own
            model = load(self.job.run, **self.job.places, device=self.job.device)
            self._model = model.with_classes(self.job.classes) if self.job.classes else model
        return self._model
