"""The captions of all classes on a pool of language models: a part for each class, then the file of all.

A row of the pool is a class. What is written of it depends on no other, so neither the number of actors nor a kill
changes a byte of the file.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import ValidationError

from syncclip import storage
from syncclip.core.session import current
from syncclip.core.settings import Settings, UserError
from syncclip.runtime.progress import Progress, say
from syncclip.runtime.ray_session import cluster_address, ray_session
from syncclip.storage.urls import absolute
from syncclip.synthesis.driver import check_capacity
from syncclip.synthesis.pool import rounds, run_round
from syncclip.synthesis.prompts.captions import Captions, Sentences, WriterSettings
from syncclip.synthesis.prompts.files import check_writer, read_captions
from syncclip.synthesis.prompts.writer import Writer
from syncclip.synthesis.settings import ONE_ACTOR, Pool
from syncclip.synthesis.status import Report
from syncclip.synthesis.worker import failed

PARTS = ".parts"
"""What the folder beside the file is called by, in which each class has a file until all are written."""


class Part(Settings):
    """What was written of one class."""

    classname: str
    writer: WriterSettings
    weights: str
    sentences: Sentences


@dataclass(frozen=True)
class _Job:
    """What actors are told. Classes go by their place in `names`."""

    settings: WriterSettings
    names: Sequence[str]
    url: str
    device: str | None
    threads: int
    lease: str

    def place(self, name: str) -> str:
        """Where the part of a class is."""
        return storage.join(self.url + PARTS, hashlib.sha256(name.encode()).hexdigest()[:24] + ".json")

    def parts(self, report: Callable[[str], object] | None = None) -> dict[str, Part]:
        """Class -> its part, of those that are whole and of this writer.

        Args:
            report: called with a sentence for each part that is damaged, or another class's.
        """
        report = report or (lambda _: None)
        there = storage.sizes(self.url + PARTS)
        places = {place: name for name in self.names if (place := self.place(name)).rpartition("/")[2] in there}
        texts = storage.read_many(list(places), lambda *_: None)
        found: dict[str, Part] = {}
        for place, name in places.items():
            try:
                part = Part.model_validate_json(texts.get(place, b""))
            except ValidationError:
                report(f"{place} is not as it was written; the captions of class {name!r} are written again")
                continue
            if part.classname != name:
                report(f"{place} holds captions of class {part.classname!r}; those of {name!r} are written again")
            elif part.writer == self.settings:
                found[name] = part
        return found

    def left(self, report: Callable[[str], object] | None = None) -> list[int]:
        """The classes that have no part yet; `report` as in `parts`."""
        parts = self.parts(report)
        return [number for number, name in enumerate(self.names) if name not in parts]

    def failure(self, number: int, cause: str, left: int) -> str:
        """What is said of a class that failed for good."""
        done, name = len(self.names) - left, self.names[number]
        return f"{self.url}: no captions of class {name!r}: {cause}; the same command keeps those of {done} others"


def write_captions(
    settings: WriterSettings, classnames: Sequence[str], url: str, pool: Pool = ONE_ACTOR, threads: int = 1
) -> Captions:
    """Write what is missing of the captions at `url`, and return them all, in the order of the classes.

    What is there stays, also where it was corrected by hand. Killed at any time, the same call goes on from there.

    Args:
        url: the file; one that every machine sees, where several write.
        pool: who writes; one actor without a GPU and without a cluster is this process.
        threads: torch threads of an actor; the last bits of its numbers, and so a word here and there, depend on them.

    Raises:
        UserError: the file holds captions of another writer; the model can't be loaded, or has nothing to say.
    """
    names, url = list(dict.fromkeys(classnames)), absolute(url)
    there = _kept(settings, url)
    if there.sentences.keys() >= set(names):
        return there
    with storage.lease(url, "captions", file=True):
        there = _kept(settings, url)
        alone = pool.size == (1, 1) and not pool.num_gpus and cluster_address() is None
        missing = [name for name in names if name not in there.sentences]
        with storage.lease(url + PARTS, "captions") as hold:
            job = _Job(settings, missing, url, None if alone else pool.device, threads, hold.token)
            todo = job.left(say)
            with Progress(len(names), "classes", "captions", done=len(names) - len(todo)) as line:
                for report in _reports(job, todo, pool, alone):
                    line.update(0 if report.error else 1)
            parts = job.parts()
        storage.write_document(url, _whole(there, parts, names, url))
        storage.remove(url + PARTS, recursive=True)
        return read_captions(url)


def _whole(there: Captions, parts: Mapping[str, Part], names: Sequence[str], url: str) -> Captions:
    """What is there and what was written now, in the order of the classes; others last."""
    weights = {part.weights for part in parts.values()} | ({there.weights} if there.sentences else set())
    if len(weights) > 1:
        model = there.writer.model
        raise UserError(f"{url}: other weights of {model!r} wrote some of these; write into another file")
    sentences = {**{name: part.sentences for name, part in parts.items()}, **there.sentences}
    order = [*names, *(other for other in sentences if other not in names)]
    return Captions(writer=there.writer, weights=weights.pop(), sentences={name: sentences[name] for name in order})


def _reports(job: _Job, todo: Sequence[int], pool: Pool, alone: bool) -> Iterator[Report]:
    if alone:
        worker = CaptionWorker(job)
        yield from rounds(
            todo, job.left, job.failure, 0, lambda classes: (worker.commit(worker.generate(one)) for one in classes)
        )
    elif todo:
        check_capacity(pool, job.threads)
        with ray_session():
            session = current().under_lock(job.url + PARTS, job.lease)
            make = partial(CaptionWorker, job)
            step = partial(run_round, worker=make, pool=pool, threads=job.threads, session=session)
            yield from rounds(todo, job.left, job.failure, pool.retries, step)


class CaptionWorker:
    """Writes the captions of whole classes, see `synthesis.pool.Worker`."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self._writer: Writer | None = None

    def generate(self, number: int) -> tuple[Report, Part | None]:
        """The captions of a class, in memory."""
        report = Report(number, started=time.time(), worker=f"{platform.node()}:{os.getpid()}")
        name = self.job.names[number]
        try:
            writer = self.writer()
            part = Part(classname=name, writer=self.job.settings, weights=writer.weights, sentences=writer.write(name))
        except Exception as error:
            return failed(report, error), None
        return report._replace(images=len(part.sentences)), part

    def commit(self, uncommitted: tuple[Report, Part | None]) -> Report:
        """Write the part of a class."""
        (report, part), begun = uncommitted, time.time()
        if part is not None:
            try:
                storage.write_document(self.job.place(part.classname), part)
            except Exception as error:
                report = failed(report, error)
        ended = time.time()
        return report._replace(write=ended - begun, ended=ended)

    def writer(self) -> Writer:
        """The model, loaded once, at the first class: an error there must come back as a row, too."""
        if self._writer is None:
            import torch

            torch.set_num_threads(self.job.threads)
            self._writer = Writer(self.job.settings, self.job.device)
        return self._writer


def _kept(settings: WriterSettings, url: str) -> Captions:
    """The captions that are there; none where there is no file."""
    there = read_captions(url) if storage.exists(url) else Captions(writer=settings)
    check_writer(there, settings, url)
    return there
