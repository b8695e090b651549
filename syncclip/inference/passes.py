"""Inference over the shards of a folder or bucket, on Ray: a file of predictions beside each tar, its marker last.

Actors decode images in their own threads. The files follow from the run and the shard, so neither the number of actors
nor a kill changes a byte of them.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.inference.markers import ShardMarker, differences, parse_marker
from syncclip.inference.model import Model, load
from syncclip.runtime.progress import Progress, print_message
from syncclip.runtime.ray_session import ray_session
from syncclip.runtime.threads import thread_pool
from syncclip.shards.markers import CHUNK
from syncclip.workers.job import Worker, check_capacity, run_job
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

READERS = 4
"""Shards that are verified concurrently."""


class Passed(NamedTuple):
    """A folder in which every shard has its files."""

    url: str
    shards: int
    images: int
    unread: int
    """Number of unreadable images among them."""


class ShardPredictions(NamedTuple):
    """A shard's predictions in memory."""

    data: bytes
    """Content of their file."""
    images: int
    unread: int
    tar_sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Inference over shards, as it is sent to actors. A shard's number is its position in `tars`.

    Attributes:
        FILE, MARKER: endings of a shard's files, in place of `.tar`.
        VERB: past participle for messages.
        tars: name -> sha256 in the tar's commit marker; None: no commit marker.
        asked: digest of the run, its classes and the settings of the pass.
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
    lock_token: str | None

    def path(self, name: str, ending: str) -> str:
        """URL of a shard's file."""
        return storage.join(self.out, name.removesuffix(".tar") + ending)

    def done(self, report: Callable[[str], object] | None = None) -> dict[str, ShardMarker]:
        """Shard -> marker, for shards whose marker fits the size of their file. Reads the markers alone.

        Args:
            report: called with a message for each marker that is damaged, or whose file is missing or truncated.

        Raises:
            UserError: the predictions in the folder are of another run, other classes or settings.
        """
        report = report or (lambda _: None)
        sizes, markers = storage.sizes(self.out), dict[str, ShardMarker]()
        marked = [name for name in self.tars if name[:-4] + self.MARKER in sizes]
        for first in range(0, len(marked), CHUNK):
            urls = {self.path(name, self.MARKER): name for name in marked[first : first + CHUNK]}
            texts = storage.read_many(list(urls), partial(_report_marker, report))
            for url, text in texts.items():
                name = urls[url]
                try:
                    marker = parse_marker(text, url, name)
                except storage.DamagedError as error:
                    report(str(error))
                    continue
                if marker.asked != self.asked:
                    raise UserError(
                        f"{url}: these predictions are of another run, other classes or settings; choose another "
                        f"--out, or remove the files *{self.FILE} and *{self.MARKER}"
                    )
                if sizes.get(name[:-4] + self.FILE) == marker.bytes:
                    markers[name] = marker
                else:
                    report(f"{self.path(name, self.FILE)} is missing or truncated")
        return markers

    def verify(self) -> None:
        """Verify the tars and the predictions of earlier calls by their checksums, before any work.

        Where the content differs, the marker is removed, so that its shard is computed again. Every file of predictions
        is read, and every tar without a commit marker.

        Raises:
            UserError: see `done`.
        """
        done = self.done(lambda problem: print_message(f"{problem}; its shard is {self.VERB} again"))
        if not done:
            return
        with Progress(len(done), "shards", "check") as line, thread_pool(READERS, "check") as readers:
            for name, problems in zip(done, readers.map(self._problems, done, done.values()), strict=True):
                for problem in problems:
                    print_message(f"{problem}; {name} is {self.VERB} again")
                    storage.remove(self.path(name, self.MARKER))
                line.update()

    def _problems(self, name: str, marker: ShardMarker) -> list[str]:
        return list(differences(marker, self.path(name, self.FILE), storage.join(self.url, name), self.tars[name]))

    def passed(self, done: Mapping[str, ShardMarker]) -> Passed:
        """Totals of all markers."""
        markers = done.values()
        images, unread = (sum(getattr(marker, key) for marker in markers) for key in ("images", "unread"))
        return Passed(self.out, len(markers), images, unread)

    def remaining(self) -> list[int]:
        """Shards without predictions."""
        done = self.done()
        return [number for number, name in enumerate(self.tars) if name not in done]

    def failure(self, shard: int, cause: str, remaining: int) -> str:
        """The error message for a shard that failed permanently."""
        count = len(self.tars)
        return (
            f"{storage.join(self.url, list(self.tars)[shard])} could not be {self.VERB}: {cause}; {count - remaining} "
            f"of {count} shards have their files in {self.out}; run the same command to resume"
        )

    def run_on(self, worker: Callable[[], ShardPass], pool: Pool, label: str) -> None:
        """Compute all missing files on a pool of actors.

        Raises:
            UserError: a shard failed permanently.
        """
        self.verify()
        if todo := self.remaining():
            check_capacity(pool, self.threads, "--actors", "--num-gpus")
            with Progress(len(self.tars), "shards", label, done=len(self.tars) - len(todo)) as line, ray_session():
                images = 0
                for report in run_job(
                    self, todo, worker, pool, self.threads, folder=self.out, lock_token=self.lock_token
                ):
                    images += report.images
                    line.update(0 if report.error else 1, images=images)


class ShardPass(Worker[ShardPredictions]):
    """An actor's worker for a `ShardJob`."""

    def __init__(self, job: ShardJob) -> None:
        super().__init__(job.threads)
        self.job, self.names = job, list(job.tars)

    @abstractmethod
    def compute(self, name: str) -> ShardPredictions:
        """The model's predictions for a shard's images.

        Raises:
            UserError: the tar is not the one that its commit marker describes.
        """

    def load(self) -> None:
        self._model = self.loaded()

    def model(self) -> Model:
        """The model, loaded once."""
        self.prepare()
        return self._model

    def loaded(self) -> Model:
        """Load the run's model."""
        return load(self.job.run, **self.job.places, device=self.job.device)

    def start(self, shard: int) -> Callable[[], ShardPredictions]:
        predictions = self.compute(self.names[shard])
        return lambda: predictions

    def summary(self, result: ShardPredictions) -> dict[str, Any]:
        return {"images": result.images}

    def write(self, result: ShardPredictions, report: Report, seconds: float) -> None:  # noqa: ARG002
        job, name = self.job, self.names[report.shard]
        marker = ShardMarker(
            asked=job.asked,
            tar=name,
            tar_sha256=result.tar_sha256,
            bytes=len(result.data),
            sha256=hashlib.sha256(result.data).hexdigest(),
            images=result.images,
            unread=result.unread,
        )
        storage.write_bytes(job.path(name, job.FILE), result.data)
        storage.write_document(job.path(name, job.MARKER), marker)


def _report_marker(report: Callable[[str], object], url: str, _: storage.DamagedError) -> None:
    report(f"{url} is damaged")
