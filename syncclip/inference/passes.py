"""A model's pass over the shards of a folder or bucket, on Ray: a file of predictions beside each tar, its marker last.

A row of the pool is a shard, whose images an actor's own threads decode while it computes. What the files hold follows
from the run and the shard, so neither the number of actors nor a kill changes a byte of them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch

from syncclip import storage
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.inference.markers import ShardMarker, differences, parse_marker
from syncclip.inference.model import Model, load
from syncclip.runtime.progress import Progress, say
from syncclip.runtime.ray_session import ray_session
from syncclip.runtime.threads import thread_pool
from syncclip.shards.markers import CHUNK
from syncclip.synthesis.driver import check_capacity
from syncclip.synthesis.pool import rounds, run_round
from syncclip.synthesis.settings import Pool
from syncclip.synthesis.status import Report
from syncclip.synthesis.worker import failed

READERS = 4
"""Shards that are compared with their markers at once."""


class Passed(NamedTuple):
    """A folder in which every shard has its files."""

    url: str
    shards: int
    images: int
    unread: int
    """Of these, those that could not be read."""


class ShardPredictions(NamedTuple):
    """A shard's predictions in memory."""

    data: bytes
    """Content of their file."""
    images: int
    unread: int
    tar_sha256: str
    """Of the tar that was read."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What actors are told. A shard's number is its position in `tars`.

    Attributes:
        FILE, MARKER: what the files of a shard end with, in place of `.tar`.
        VERB: what is done with a shard.
        tars: name -> sha256 in the tar's commit marker; None: it has no commit marker.
    """

    FILE: ClassVar[str]
    MARKER: ClassVar[str]
    VERB: ClassVar[str]

    run: str
    url: str
    out: str
    tars: Mapping[str, str | None]
    asked: str
    batch: int
    threads: int
    device: str
    places: Mapping[str, str | None]
    lease: str | None

    def place(self, name: str, ending: str) -> str:
        """Where a file of a shard is."""
        return storage.join(self.out, name.removesuffix(".tar") + ending)

    def done(self, report: Callable[[str], object] | None = None) -> dict[str, ShardMarker]:
        """Shard -> marker, of the shards with a marker and a file of the size in it. Reads the markers alone.

        Args:
            report: called with a sentence for each marker that is damaged, or whose file is missing or too short.

        Raises:
            UserError: predictions there are of another run, of other classes or settings.
        """
        report = report or (lambda _: None)
        there, found = storage.sizes(self.out), dict[str, ShardMarker]()
        marked = [name for name in self.tars if name[:-4] + self.MARKER in there]
        for first in range(0, len(marked), CHUNK):
            places = {self.place(name, self.MARKER): name for name in marked[first : first + CHUNK]}
            texts = storage.read_many(list(places), partial(_report_marker, report))
            for place, text in texts.items():
                name = places[place]
                try:
                    marker = parse_marker(text, place, name)
                except storage.DamagedError as error:
                    report(str(error))
                    continue
                if marker.asked != self.asked:
                    raise UserError(
                        f"{place}: these predictions are of another run, other classes or settings; choose another "
                        f"--out, or remove the files *{self.FILE} and *{self.MARKER}"
                    )
                if there.get(name[:-4] + self.FILE) == marker.bytes:
                    found[name] = marker
                else:
                    report(f"{self.place(name, self.FILE)} is missing, or not as it was written")
        return found

    def recheck(self) -> None:
        """Compare the tars and the predictions of earlier calls with the markers' checksums, before any work.

        A marker of other content is removed, so that its shard is computed again. Every file of predictions is read,
        and every tar without a commit marker.

        Raises:
            UserError: see `done`.
        """
        done = self.done(lambda problem: say(f"{problem}; its shard is {self.VERB} again"))
        if not done:
            return
        with Progress(len(done), "shards", "check") as line, thread_pool(READERS, "check") as readers:
            for name, problems in zip(done, readers.map(self._problems, done, done.values()), strict=True):
                for problem in problems:
                    say(f"{problem}; {name} is {self.VERB} again")
                    storage.remove(self.place(name, self.MARKER))
                line.update()

    def _problems(self, name: str, marker: ShardMarker) -> list[str]:
        return list(differences(marker, self.place(name, self.FILE), storage.join(self.url, name), self.tars[name]))

    def passed(self, done: Mapping[str, ShardMarker]) -> Passed:
        """The sums of all markers."""
        found = done.values()
        return Passed(self.out, len(found), sum(one.images for one in found), sum(one.unread for one in found))

    def left(self) -> list[int]:
        """The shards that have no files yet."""
        done = self.done()
        return [number for number, name in enumerate(self.tars) if name not in done]

    def failure(self, number: int, cause: str, left: int) -> str:
        """What is said of a shard that failed for good."""
        count = len(self.tars)
        return (
            f"{storage.join(self.url, list(self.tars)[number])} could not be {self.VERB}: {cause}; {count - left} of "
            f"{count} shards have their files in {self.out}, and the same command goes on from there"
        )

    def work_off(self, worker: Callable[[], ShardPass], pool: Pool, what: str) -> None:
        """Have a pool of actors make all files that aren't there yet.

        Raises:
            UserError: shards failed for good.
        """
        self.recheck()
        if todo := self.left():
            check_capacity(pool, self.threads, "--actors", "--num-gpus")
            session = current().under_lock(self.out, self.lease)
            step = partial(run_round, worker=worker, pool=pool, threads=self.threads, session=session)
            with Progress(len(self.tars), "shards", what, done=len(self.tars) - len(todo)) as line, ray_session():
                images = 0
                for report in rounds(todo, self.left, self.failure, pool.retries, step):
                    storage.locks.check(self.out)
                    images += report.images
                    line.update(0 if report.error else 1, images=images)


class ShardPass(ABC):
    """An actor's worker, see `synthesis.pool.Worker`."""

    def __init__(self, job: ShardJob) -> None:
        self.job, self.names = job, list(job.tars)
        self._model: Model | None = None

    @abstractmethod
    def compute(self, name: str) -> ShardPredictions:
        """The model's predictions for a shard's images.

        Raises:
            UserError: the tar is not the one that its commit marker describes.
        """

    def generate(self, shard: int) -> tuple[Report, ShardPredictions | None]:
        """A shard's predictions, in memory; None where they failed."""
        report = Report(shard, started=time.time(), worker=f"{platform.node()}:{os.getpid()}")
        try:
            content = self.compute(self.names[shard])
        except Exception as error:
            return failed(report, error), None
        return report._replace(images=content.images), content

    def commit(self, uncommitted: tuple[Report, ShardPredictions | None]) -> Report:
        """Write a shard's file of predictions, then its marker."""
        (report, content), begun, job = uncommitted, time.time(), self.job
        if content is not None:
            name = self.names[report.shard]
            marker = ShardMarker(
                asked=job.asked,
                tar=name,
                tar_sha256=content.tar_sha256,
                bytes=len(content.data),
                sha256=hashlib.sha256(content.data).hexdigest(),
                images=content.images,
                unread=content.unread,
            )
            try:
                storage.write_bytes(job.place(name, job.FILE), content.data)
                storage.write_document(job.place(name, job.MARKER), marker)
            except Exception as error:
                report = failed(report, error)
        ended = time.time()
        return report._replace(write=ended - begun, ended=ended)

    def model(self) -> Model:
        """The model, loaded once, at the first shard: an error there must come back as a row, too."""
        if self._model is None:
            torch.set_num_threads(self.job.threads)  # the last bits of a sum depend on it
            self._model = self.loaded()
        return self._model

    def loaded(self) -> Model:
        """The run's model."""
        return load(self.job.run, **self.job.places, device=self.job.device)


def _report_marker(report: Callable[[str], object], place: str, _: storage.DamagedError) -> None:
    report(f"{place} is not as it was written")
