"""Ray-based inference over the shards in a folder or bucket; each tar gets a predictions file and then a marker.

File contents are deterministic given the run and the shard, regardless of the number of actors or restarts.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import ValidationError

from syncclip import storage
from syncclip.core.settings import Settings, UserError
from syncclip.inference.model import Model, load
from syncclip.runtime.progress import Progress, print_message
from syncclip.runtime.ray_session import ray_session
from syncclip.runtime.threads import thread_pool
from syncclip.shards.markers import CHUNK
from syncclip.workers.job import Worker, check_capacity, run_job
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

READERS = 4
"""Number of shards that are verified concurrently."""


class ShardMarker(Settings):
    """Marker for a shard's predictions: settings, input tar and output file."""

    format: Literal[1] = 1
    job_checksum: str
    """Checksum of the run, the classes and the job settings."""
    tar: str
    """Name of the input tar."""
    tar_sha256: str
    bytes: int
    """Size of the predictions file in bytes."""
    sha256: str
    """Checksum of the predictions file."""
    images: int
    unread: int
    """Number of unreadable images, included in `images`."""


class Passed(NamedTuple):
    """Totals for a folder in which all shards are complete."""

    url: str
    shards: int
    images: int
    unread: int
    """Number of unreadable images, included in `images`."""


class ShardPredictions(NamedTuple):
    """Content of a shard's predictions file, and the shard's totals."""

    data: bytes
    images: int
    unread: int
    tar_sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Inference job over shards, as sent to the actors. A shard's number is its index in `tars`.

    Attributes:
        FILE, MARKER: suffixes that replace `.tar` in the names of a shard's files.
        VERB: past participle used in messages.
        tars: maps each tar's name to the SHA-256 in its commit marker, or to None without a commit marker.
        job_checksum: checksum of the run, the classes and the job settings.
        backbone_arguments: `backbone` and `pretrained` arguments of `model.load`.
    """

    FILE: ClassVar[str]
    MARKER: ClassVar[str]
    VERB: ClassVar[str]

    run: str
    url: str
    out: str
    tars: Mapping[str, str | None]
    job_checksum: str
    batch: int
    threads: int
    device: str
    backbone_arguments: Mapping[str, str | None]
    lock_token: str | None

    def path(self, name: str, ending: str) -> str:
        """Return the URL of a file that belongs to a shard."""
        return storage.join(self.out, name.removesuffix(".tar") + ending)

    def done(self, report: Callable[[str], None] | None = None) -> dict[str, ShardMarker]:
        """Return the marker of each shard whose predictions file has the expected size; the file's content is not read.

        Args:
            report: callback that receives a message for each damaged marker and each missing or truncated file.

        Raises:
            UserError: the predictions in the folder belong to a different run or have different classes or settings.
        """
        report = report or (lambda _: None)
        sizes, markers = storage.sizes(self.out), dict[str, ShardMarker]()
        marked = [name for name in self.tars if name[:-4] + self.MARKER in sizes]
        for first in range(0, len(marked), CHUNK):
            urls = {self.path(name, self.MARKER): name for name in marked[first : first + CHUNK]}
            texts = storage.read_many(list(urls), lambda url, _: report(f"{url} is damaged"))
            for url, text in texts.items():
                name = urls[url]
                try:
                    marker = parse_marker(text, url, name)
                except storage.DamagedError as error:
                    report(str(error))
                    continue
                if marker.job_checksum != self.job_checksum:
                    raise UserError(
                        f"{url}: existing predictions were computed with a different run, classes or settings; "
                        f"choose a different --out, or remove the files *{self.FILE} and *{self.MARKER}"
                    )
                if sizes.get(name[:-4] + self.FILE) == marker.bytes:
                    markers[name] = marker
                else:
                    report(f"{self.path(name, self.FILE)} is missing or truncated")
        return markers

    def verify(self) -> None:
        """Verify the checksums of existing predictions and their tars, and delete the markers of mismatched shards.

        Raises:
            UserError: see `done`.
        """
        done = self.done(lambda problem: print_message(f"{problem}; its shard will be {self.VERB} again"))
        if not done:
            return
        with Progress(len(done), "shards", "check") as line, thread_pool(READERS, "check") as readers:
            for name, problems in zip(done, readers.map(self._problems, done, done.values()), strict=True):
                for problem in problems:
                    print_message(f"{problem}; {name} will be {self.VERB} again")
                    storage.remove(self.path(name, self.MARKER))
                line.update()

    def _problems(self, name: str, marker: ShardMarker) -> list[str]:
        return list(differences(marker, self.path(name, self.FILE), storage.join(self.url, name), self.tars[name]))

    def passed(self, done: Mapping[str, ShardMarker]) -> Passed:
        """Return the totals, summed over all markers."""
        markers = done.values()
        images, unread = (sum(getattr(marker, key) for marker in markers) for key in ("images", "unread"))
        return Passed(self.out, len(markers), images, unread)

    def remaining(self) -> list[int]:
        """Return the indices of the shards without predictions."""
        done = self.done()
        return [number for number, name in enumerate(self.tars) if name not in done]

    def failure(self, shard: int, cause: str, remaining: int) -> str:
        """Return the error message for a permanently failed shard."""
        count = len(self.tars)
        return (
            f"{storage.join(self.url, list(self.tars)[shard])} could not be {self.VERB}: {cause}; {count - remaining} "
            f"of {count} shards are complete in {self.out}; run the same command to resume"
        )

    def run_on(self, worker: Callable[[], ShardPass], pool: Pool, label: str) -> None:
        """Compute the missing predictions on a pool of actors.

        Raises:
            UserError: a shard failed permanently.
        """
        self.verify()
        if todo := self.remaining():
            check_capacity(pool, self.threads, "--actors", "--num-gpus", "--label")
            done = len(self.tars) - len(todo)
            with Progress(len(self.tars), "shards", label, done=done, phase="starting Ray") as line, ray_session():
                line.begin("loading CLIP weights")
                images = 0
                for report in run_job(
                    self, todo, worker, pool, self.threads, folder=self.out, lock_token=self.lock_token
                ):
                    images += report.images
                    line.update(0 if report.error else 1, images=images)


class ShardPass(Worker[ShardPredictions]):
    """Worker that an actor runs for a `ShardJob`."""

    def __init__(self, job: ShardJob) -> None:
        super().__init__(job.threads)
        self.job, self.names = job, list(job.tars)

    @abstractmethod
    def compute(self, name: str) -> ShardPredictions:
        """Compute the predictions for a shard's images.

        Raises:
            UserError: the tar does not match its commit marker.
        """

    def load(self) -> None:
        self._model = self.loaded()

    def model(self) -> Model:
        """Return the model, loading it on first use."""
        self.prepare()
        return self._model

    def loaded(self) -> Model:
        """Load the run's model."""
        return load(self.job.run, **self.job.backbone_arguments, device=self.job.device)

    def start(self, shard: int) -> Callable[[], ShardPredictions]:
        predictions = self.compute(self.names[shard])
        return lambda: predictions

    def summary(self, result: ShardPredictions) -> dict[str, Any]:
        return {"images": result.images}

    def write(self, result: ShardPredictions, report: Report, seconds: float) -> None:  # noqa: ARG002
        job, name = self.job, self.names[report.shard]
        marker = ShardMarker(
            job_checksum=job.job_checksum,
            tar=name,
            tar_sha256=result.tar_sha256,
            bytes=len(result.data),
            sha256=hashlib.sha256(result.data).hexdigest(),
            images=result.images,
            unread=result.unread,
        )
        storage.write_bytes(job.path(name, job.FILE), result.data)
        storage.write_document(job.path(name, job.MARKER), marker)


def parse_marker(data: bytes, url: str, tar: str) -> ShardMarker:
    """Parse the marker at `url`, which must belong to the predictions for `tar`.

    Raises:
        DamagedError: the marker is invalid or belongs to a different tar.
    """
    try:
        marker = ShardMarker.model_validate_json(data)
    except ValidationError as error:
        raise storage.DamagedError(f"{url} is truncated, or is not a predictions marker") from error
    if marker.tar != tar:
        raise storage.DamagedError(f"{url} is the marker of {marker.tar}, not of {tar}; files were swapped")
    return marker


def differences(marker: ShardMarker, file: str, tar: str | None, committed: str | None = None) -> Iterator[str]:
    """Compare a predictions file and its tar with the marker, and yield one message per mismatch.

    Args:
        file, tar: paths or URLs; `tar` is None if the tar is unavailable.
        committed: SHA-256 of the tar from the commit marker, used instead of reading the tar.
    """
    if tar is not None and (committed or _sha256(tar, marker.tar_sha256)) != marker.tar_sha256:
        yield f"{tar} differs from the tar that {file} was computed from"
    if _sha256(file, marker.sha256) != marker.sha256:
        yield f"{file} no longer matches its checksum; it was damaged or replaced"


def _sha256(url: str, expected: str) -> str:
    with storage.open_read(url, expected) as content:
        return storage.file_sha256(content)


def problems_of_files(
    url: str, names: Collection[str], endings: tuple[str, str], tars: Mapping[str, str | None]
) -> Iterator[str]:
    """Verify a folder's predictions and the tars they were computed from, and yield one message per problem.

    Args:
        names: names of all files in the folder.
        endings: suffixes that replace `.tar` in the names of a predictions file and its marker.
        tars: tars in the folder, as in `ShardJob`.
    """
    stems = {name.removesuffix(ending) for name in names for ending in endings if name.endswith(ending)}
    with_tars = any(f"{stem}.tar" in tars for stem in stems)
    first: tuple[str, str] | None = None
    for stem in sorted(stems | ({name.removesuffix(".tar") for name in tars} if with_tars else set())):
        file, marker_url = (storage.join(url, stem + ending) for ending in endings)
        tar = storage.join(url, f"{stem}.tar") if f"{stem}.tar" in tars else None
        if missing := [path for path in (file, marker_url) if path.rpartition("/")[2] not in names]:
            yield f"{missing[0]} is missing; run the same command to recompute the predictions for {stem}.tar"
            continue
        if with_tars and tar is None:
            yield f"{storage.join(url, stem)}.tar is missing, but predictions for this tar exist"
        try:
            marker = parse_marker(storage.read_bytes(marker_url), marker_url, f"{stem}.tar")
        except storage.DamagedError as error:
            yield str(error)
            continue
        first = first or (marker_url, marker.job_checksum)
        if marker.job_checksum != first[1]:
            yield (
                f"{marker_url} and {first[0]} were computed with different runs, classes or settings; "
                "files were swapped"
            )
        yield from differences(marker, file, tar, tars.get(f"{stem}.tar"))
