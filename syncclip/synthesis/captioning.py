"""Captions of all classes, written by a pool of language models: a part per class, then one file.

A row of the pool is a class. Its captions depend on no other class, so neither the number of actors nor a kill changes
a byte of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Suffix of the folder beside the file that holds a part per class until all are written."""


class Part(Settings):
    """The captions of one class."""

    classname: str
    writer: WriterSettings
    weights: str
    sentences: Sentences


@dataclass(frozen=True)
class _Job:
    """Captions to write, as they are sent to actors. A class's number is its position in `names`."""

    settings: WriterSettings
    names: Sequence[str]
    url: str
    device: str | None
    threads: int
    lock_token: str

    @property
    def folder(self) -> str:
        """URL of the folder of parts."""
        return self.url + PARTS

    def path(self, name: str) -> str:
        """URL of a class's part."""
        return storage.join(self.folder, hashlib.sha256(name.encode()).hexdigest()[:24] + ".json")

    def parts(self, report: Callable[[str], object] | None = None) -> dict[str, Part]:
        """Class -> its part, for intact parts by this writer.

        Args:
            report: called with a message for each part that is damaged, or another class's.
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
                report(f"{url} is damaged; the captions of class {name!r} are written again")
                continue
            if part.classname != name:
                report(f"{url} holds captions of class {part.classname!r}; those of {name!r} are written again")
            elif part.writer == self.settings:
                parts[name] = part
        return parts

    def remaining(self, report: Callable[[str], object] | None = None) -> list[int]:
        """Classes without a part; `report` as in `parts`."""
        parts = self.parts(report)
        return [number for number, name in enumerate(self.names) if name not in parts]

    def failure(self, number: int, cause: str, remaining: int) -> str:
        """The error message for a class that failed permanently."""
        done, name = len(self.names) - remaining, self.names[number]
        return f"{self.url}: no captions of class {name!r}: {cause}; the same command keeps those of {done} others"


def write_captions(
    settings: WriterSettings, classnames: Sequence[str], url: str, pool: Pool = ONE_ACTOR, threads: int = 1
) -> Captions:
    """Write the missing captions of the file at `url`, and return all in the order of the classes.

    Existing captions stay, including manual edits. After a kill the same call resumes.

    Args:
        url: the file; visible to all machines, where several write.
        pool: the actors; a single one without a GPU or cluster runs in this process.
        threads: torch threads per actor; the last bits of its numbers, and so single words, depend on them.

    Raises:
        UserError: the file is by another writer, the model can't be loaded, or it returned no captions.
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
            with Progress(len(names), "classes", "captions", done=len(names) - len(todo)) as line:
                for report in _reports(job, todo, pool, local):
                    line.update(0 if report.error else 1)
            parts = job.parts()
        storage.write_document(url, _merged(existing, parts, names, url))
        storage.remove(url + PARTS, recursive=True)
        return read_captions(url)


def _merged(existing: Captions, parts: Mapping[str, Part], names: Sequence[str], url: str) -> Captions:
    """Existing and new captions in the order of the classes; other classes last."""
    weights = {part.weights for part in parts.values()} | ({existing.weights} if existing.sentences else set())
    if len(weights) > 1:
        model = existing.writer.model
        raise UserError(f"{url}: other weights of {model!r} wrote some of these; write into another file")
    sentences = {**{name: part.sentences for name, part in parts.items()}, **existing.sentences}
    order = [*names, *(name for name in sentences if name not in names)]
    return Captions(writer=existing.writer, weights=weights.pop(), sentences={name: sentences[name] for name in order})


def _reports(job: _Job, todo: Sequence[int], pool: Pool, local: bool) -> Iterator[Report]:
    worker = partial(CaptionWorker, job)
    if local:
        yield from run_job(
            job, todo, worker, pool, job.threads, folder=job.folder, lock_token=job.lock_token, local=True
        )
    elif todo:
        check_capacity(pool, job.threads)
        with ray_session():
            yield from run_job(job, todo, worker, pool, job.threads, folder=job.folder, lock_token=job.lock_token)


class CaptionWorker(Worker[Part]):
    """An actor's worker that writes the captions of classes."""

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
    """The captions of the file; none where there is no file."""
    captions = read_captions(url) if storage.exists(url) else Captions(writer=settings)
    check_writer(captions, settings, url)
    return captions
