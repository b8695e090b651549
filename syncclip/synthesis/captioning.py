"""Caption generation: a pool of actors writes one part per class, and the parts are merged into one file.

Each class is captioned independently, so the file does not depend on the number of actors or restarts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from syncclip import storage
from syncclip.core.settings import Settings, UserError
from syncclip.runtime.progress import Progress, print_message
from syncclip.runtime.ray_session import cluster_address, ray_session
from syncclip.storage.urls import absolute
from syncclip.synthesis.prompts.captions import Captions, Sentences, WriterSettings
from syncclip.synthesis.prompts.files import check_writer, read_captions
from syncclip.synthesis.prompts.writer import Writer
from syncclip.workers.job import Worker, check_capacity, run_job
from syncclip.workers.report import Report
from syncclip.workers.settings import ONE_ACTOR, Pool

PARTS = ".parts"
"""Suffix of the temporary folder with one part per class, next to the caption file."""


class Part(Settings):
    """The captions of one class."""

    classname: str
    writer: WriterSettings
    weights: str
    sentences: Sentences


@dataclass(frozen=True)
class _Job:
    """Captioning job for the classes without captions; a shard is a class, numbered by its position in `names`."""

    settings: WriterSettings
    names: Sequence[str]
    url: str
    device: str | None
    threads: int
    lock_token: str

    @property
    def folder(self) -> str:
        """URL of the folder that contains the parts."""
        return self.url + PARTS

    def path(self, name: str) -> str:
        """Return the URL of a class's part."""
        return storage.join(self.folder, hashlib.sha256(name.encode()).hexdigest()[:24] + ".json")

    def parts(self, report: Callable[[str], object] | None = None) -> dict[str, Part]:
        """Return the intact parts written with the job's settings, by class name.

        Args:
            report: callback that receives a message for each part that is damaged or belongs to a different class.
        """
        report = report or (lambda _: None)
        existing = storage.sizes(self.folder)
        urls = {url: name for name in self.names if (url := self.path(name)).rpartition("/")[2] in existing}
        texts = storage.read_many(list(urls), lambda *_: None)
        parts: dict[str, Part] = {}
        for url, name in urls.items():
            try:
                part = Part.model_validate_json(texts.get(url, b""))
            except ValidationError:
                report(f"{url} is damaged; rewriting the captions of class {name!r}")
                continue
            if part.classname != name:
                report(f"{url} contains captions of class {part.classname!r}; rewriting the captions of class {name!r}")
            elif part.writer == self.settings:
                parts[name] = part
        return parts

    def remaining(self, report: Callable[[str], object] | None = None) -> list[int]:
        """Return the indices of the classes without a part; for `report`, see `parts`."""
        parts = self.parts(report)
        return [number for number, name in enumerate(self.names) if name not in parts]

    def failure(self, number: int, cause: str, remaining: int) -> str:
        """Return the error message for a class that failed permanently."""
        total, name = len(self.names), self.names[number]
        return (
            f"{self.url}: captions for class {name!r} could not be written: {cause}; {total - remaining} of {total} "
            "classes are done; "
            "run the same command to resume"
        )


def write_captions(
    settings: WriterSettings, classnames: Sequence[str], url: str, pool: Pool = ONE_ACTOR, threads: int = 1
) -> Captions:
    """Generate the captions missing from the file at `url`, and return all captions in class order.

    Existing captions are kept, including manual edits. After an interruption, repeat the call to resume.

    Args:
        url: path or URL of the caption file, accessible from all machines of a cluster.
        pool: the actor pool; a single actor without a GPU or cluster runs in this process.
        threads: number of torch threads per actor, which may slightly change the captions.

    Raises:
        UserError: the file was written with different settings, or the model can't be loaded or returns no captions.
    """
    names, url = list(dict.fromkeys(classnames)), absolute(url)
    existing = _existing(settings, url)
    if existing.sentences.keys() >= set(names):
        return existing
    with storage.lock(url, "captions", file=True):
        existing = _existing(settings, url)
        local = pool.size == (1, 1) and not pool.num_gpus and cluster_address() is None
        missing = [name for name in names if name not in existing.sentences]
        with storage.lock(url + PARTS, "captions") as hold:
            job = _Job(settings, missing, url, None if local else pool.device, threads, hold.token)
            todo = job.remaining(print_message)
            on_pool = bool(todo) and not local
            if on_pool:
                check_capacity(pool, threads)
            worker = partial(CaptionWorker, job)
            phase = "starting Ray" if on_pool else ""
            with (
                Progress(len(names), "classes", "captions", done=len(names) - len(todo), phase=phase) as line,
                ray_session() if on_pool else nullcontext(),
            ):
                for report in run_job(
                    job, todo, worker, pool, threads, folder=job.folder, lock_token=job.lock_token, local=local
                ):
                    line.update(0 if report.error else 1)
            parts = job.parts()
        storage.write_document(url, _merged(existing, parts, names, url))
        storage.remove(url + PARTS, recursive=True)
        return read_captions(url)


def _merged(existing: Captions, parts: Mapping[str, Part], names: Sequence[str], url: str) -> Captions:
    """Return existing and new captions in the order of `names`, followed by captions of other classes."""
    weights = {part.weights for part in parts.values()} | ({existing.weights} if existing.sentences else set())
    if len(weights) > 1:
        model = existing.writer.model
        raise UserError(f"{url}: some captions were written with different weights of {model!r}; use a different file")
    sentences = {**{name: part.sentences for name, part in parts.items()}, **existing.sentences}
    order = [*names, *(name for name in sentences if name not in names)]
    return Captions(writer=existing.writer, weights=weights.pop(), sentences={name: sentences[name] for name in order})


class CaptionWorker(Worker[Part]):
    """Worker that writes captions, one class at a time."""

    def __init__(self, job: _Job) -> None:
        super().__init__(job.threads)
        self.job = job

    def load(self) -> None:
        self._writer = Writer(self.job.settings, self.job.device)

    def start(self, shard: int) -> Callable[[], Part]:
        name, writer = self.job.names[shard], self._writer
        part = Part(classname=name, writer=self.job.settings, weights=writer.weights, sentences=writer.write(name))
        return lambda: part

    def summary(self, result: Part) -> dict[str, Any]:
        return {"images": len(result.sentences)}

    def write(self, result: Part, report: Report, seconds: float) -> None:  # noqa: ARG002
        storage.write_document(self.job.path(result.classname), result)


def _existing(settings: WriterSettings, url: str) -> Captions:
    """Return the captions in the file, or empty captions if the file does not exist."""
    captions = read_captions(url) if storage.exists(url) else Captions(writer=settings)
    check_writer(captions, settings, url)
    return captions
