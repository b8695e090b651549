"""A model's pass over the shards of a folder or bucket, on Ray: files beside each tar, its marker last.

A row of the pool is a shard, whose images an actor's own threads decode while it computes. What the files hold follows
from the run and the shard, so neither the number of actors nor a kill changes a byte of them.
"""

from __future__ import annotations

import os
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import ValidationError

from syncclip import storage
from syncclip.core.progress import Progress
from syncclip.core.ray_session import ray_session
from syncclip.core.settings import Settings, UserError
from syncclip.core.trust import trust, trusted
from syncclip.inference.model import Model, load
from syncclip.shards.markers import CHUNK
from syncclip.storage.leases import working_for
from syncclip.storage.places import configured
from syncclip.synthesis.driver import check_capacity
from syncclip.synthesis.pool import rounds, run_round
from syncclip.synthesis.settings import Pool
from syncclip.synthesis.status import Report
from syncclip.synthesis.worker import failed


class Passed(NamedTuple):
    """A folder in which every shard has its files."""

    url: str
    shards: int
    images: int
    unread: int
    """Of these, those that could not be read."""


class ShardMarker(Settings):
    """Content of a shard's marker: what was asked, of which shard, and what came of it."""

    format: Literal[1] = 1
    asked: str
    """Digest of the run, and of what it was asked."""
    shard_bytes: int
    images: int
    unread: int
    """Of these, those that could not be read."""


def _leave_out(place: str, damage: UserError) -> None:
    """Of a damaged marker: as if it had never been written."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What actors are told. Shards go by their place in `sizes`, name -> bytes of each tar.

    Attributes:
        FILE, MARKER: what the files of a shard end with, in place of `.tar`.
        Marker: what the marker holds.
        VERB: what is done with a shard.
    """

    FILE: ClassVar[str]
    MARKER: ClassVar[str]
    Marker: ClassVar[type[ShardMarker]] = ShardMarker
    VERB: ClassVar[str]

    run: str
    url: str
    out: str
    sizes: Mapping[str, int]
    asked: str
    batch: int
    threads: int
    device: str
    places: Mapping[str, str | None]
    lease: str | None
    options: Mapping[str, Any] = field(default_factory=configured)
    code: Sequence[str] = field(default_factory=trusted)

    def place(self, name: str, ending: str) -> str:
        """Where a file of a shard is."""
        return storage.join(self.out, name.removesuffix(".tar") + ending)

    def fits(self, name: str, marker: Any) -> bool:
        """Whether a marker is that of the tar as it is now."""
        return bool(marker.shard_bytes == self.sizes[name])

    def done(self) -> dict[str, Any]:
        """Shard -> marker of those whose files are there, of the tar as it is now.

        Raises:
            UserError: files there answer something else.
        """
        there, found = storage.sizes(self.out), dict[str, Any]()
        stems = [name for name in self.sizes if {name[:-4] + self.FILE, name[:-4] + self.MARKER} <= there.keys()]
        for first in range(0, len(stems), CHUNK):
            places = {self.place(name, self.MARKER): name for name in stems[first : first + CHUNK]}
            for place, text in storage.read_many(list(places), _leave_out).items():
                try:
                    marker = self.Marker.model_validate_json(text)
                except ValidationError:
                    continue  # of an earlier version, or cut off
                if marker.asked != self.asked:
                    raise UserError(
                        f"{place}: these answers are of another run, other classes or settings; choose another --out, "
                        f"or remove the files *{self.FILE} and *{self.MARKER}"
                    )
                if self.fits(places[place], marker):
                    found[places[place]] = marker
        return found

    def passed(self, done: Mapping[str, ShardMarker]) -> Passed:
        """What the markers of all shards tell."""
        found = done.values()
        return Passed(self.out, len(found), sum(one.images for one in found), sum(one.unread for one in found))

    def left(self) -> list[int]:
        """The shards that have no files yet."""
        done = self.done()
        return [number for number, name in enumerate(self.sizes) if name not in done]

    def failure(self, number: int, cause: str, left: int) -> str:
        """What is said of a shard that failed for good."""
        count = len(self.sizes)
        return (
            f"{storage.join(self.url, list(self.sizes)[number])} could not be {self.VERB}: {cause}; {count - left} of "
            f"{count} shards have their files in {self.out}, and the same command goes on from there"
        )

    def work_off(self, worker: Callable[[], ShardPass], pool: Pool, what: str) -> None:
        """Have a pool of actors make all files that aren't there yet.

        Raises:
            UserError: shards failed for good.
        """
        if todo := self.left():
            check_capacity(pool, self.threads, "--actors", "--num-gpus")
            step = partial(run_round, worker=worker, pool=pool, threads=self.threads)
            with Progress(len(self.sizes), "shards", what, done=len(self.sizes) - len(todo)) as line, ray_session():
                images = 0
                for report in rounds(todo, self.left, self.failure, pool.retries, step):
                    storage.leases.check(self.out)
                    images += report.images
                    line.update(0 if report.error else 1, images=images)


class ShardPass(ABC):
    """An actor's worker, see `synthesis.pool.Worker`."""

    def __init__(self, job: ShardJob) -> None:
        trust(*job.code)  # as the process does that makes the actor
        self.job, self.names = job, list(job.sizes)
        self._model: Model | None = None

    @abstractmethod
    def compute(self, name: str) -> tuple[int, Any]:
        """Images of a shard, and what the model says of them."""

    @abstractmethod
    def write(self, name: str, content: Any) -> ShardMarker:
        """Write a shard's file; its marker, which is not written yet."""

    def generate(self, shard: int) -> tuple[Report, Any]:
        """What the model says of a shard's images, in memory."""
        report = Report(shard, started=time.time(), worker=f"{platform.node()}:{os.getpid()}")
        try:
            images, content = self.compute(self.names[shard])
        except Exception as error:
            return failed(report, error), None
        return report._replace(images=images), content

    def commit(self, uncommitted: tuple[Report, Any]) -> Report:
        """Write a shard's file, its marker last."""
        (report, content), begun, job = uncommitted, time.time(), self.job
        if content is not None:
            name = self.names[report.shard]
            try:
                with working_for(job.out, job.lease):
                    marker = self.write(name, content)
                    storage.write_document(job.place(name, job.MARKER), marker)
            except Exception as error:
                report = failed(report, error)
        ended = time.time()
        return report._replace(write=ended - begun, ended=ended)

    def model(self) -> Model:
        """The model, loaded once, at the first shard: an error there must come back as a row, too."""
        if self._model is None:
            torch.set_num_threads(self.job.threads)  # the last bits of a sum depend on it
            storage.give(self.job.options)  # the run says others of its own
            self._model = self.loaded()
        return self._model

    def loaded(self) -> Model:
        """The run's model."""
        return load(self.job.run, **self.job.places, device=self.job.device)
