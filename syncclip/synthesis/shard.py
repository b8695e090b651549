"""A shard in memory: images generated, filtered and encoded, attempt by attempt, as the plan alone decides."""

from __future__ import annotations

import io
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

from PIL import Image

from syncclip.shards.writer import Sample
from syncclip.synthesis.filters import Filter, FilterBatch
from syncclip.synthesis.generators.pipeline import AnyGenerator
from syncclip.synthesis.plan import Entry, Plan
from syncclip.synthesis.references import ReferenceImages
from syncclip.synthesis.rejects import Gallery, Reject

SURPASSED = "surpassed"
"""Reason of an image that passed the filters but was not the best of its attempts."""

_generator_thread = ThreadPoolExecutor(1, "generate")
"""One thread generates, for the life of the process: each thread that uses torch brings threads of its own."""

_filtering = threading.Lock()
"""Filters know one shard at a time, from its first image to its last."""


class GeneratedShard(NamedTuple):
    """A shard in memory."""

    samples: list[Sample]
    rejects: dict[str, int]
    """Reason -> images that were generated and not taken at first sight."""
    seconds: dict[str, float]
    """Stage (generate, filter, encode) -> seconds; they overlap, since a batch is filtered beside the next one.
    `computed`: see `Generator`."""
    classes_without_accepted: dict[int, str]
    """Class id -> the reason that rejected most, of the classes of which no image was accepted."""
    gallery: list[Reject]
    """Thumbnails of some rejects."""
    begun: float
    """When the generator began with it, in seconds since 1970; later by the time for which it waited for another."""


@dataclass(frozen=True)
class Candidate:
    """A generated and filtered image. `passed` filters let it through; `score` is that of the last one that saw it."""

    entry: Entry
    jpeg: bytes
    scores: dict[str, float | None]
    passed: int
    score: float
    reason: str | None
    """The filter that rejected it, None if none did."""

    def beats(self, other: Candidate | None) -> bool:
        """Whether it came further than an earlier attempt or, equally far, scored higher there."""
        return other is None or (self.passed, self.score) > (other.passed, other.score)


def generate_shard(
    plan: Plan,
    shard: int,
    generator: AnyGenerator,
    filters: Sequence[Filter],
    references: ReferenceImages | None = None,
) -> GeneratedShard:
    """Generate the images of a shard, see `begin_shard`."""
    return begin_shard(plan, shard, generator, filters, references)()


def begin_shard(
    plan: Plan,
    shard: int,
    generator: AnyGenerator,
    filters: Sequence[Filter],
    references: ReferenceImages | None = None,
) -> Callable[[], GeneratedShard]:
    """Hand a shard to the generator. What is returned does the rest, while the next one may queue behind it.

    Every pending image is generated with its first seed, in batches of `generator.batch_size` in the order of their
    index; those that were rejected form the batches of the next attempt, and so on, as plan and scores alone decide.
    Memory holds two batches of images, since the next one is generated while one is filtered and encoded, one more of
    the next shard, and one JPEG of each sample.
    """
    making = _made(plan, shard, generator, filters, references)
    next(making)

    def finish() -> GeneratedShard:
        try:
            next(making)
        except StopIteration as ended:
            return cast(GeneratedShard, ended.value)
        raise AssertionError("it yields once")

    return finish


def _made(
    plan: Plan,
    shard: int,
    generator: AnyGenerator,
    filters: Sequence[Filter],
    references: ReferenceImages | None,
) -> Generator[None, None, GeneratedShard]:
    """Yields once, when the generator has all batches: of the shard, or until the filters have rejected images."""
    size, pending = plan.batch, list(plan.shard_range(shard))
    choice, clock = _Choice(plan, shard, filters), Clock()
    known = 1 if plan.select == "first" else plan.attempts

    def batches(attempt: int) -> Iterator[_Ahead]:
        parts = [[plan.entry(i, attempt) for i in pending[at : at + size]] for at in range(0, len(pending), size)]
        return _one_ahead(generator, references, parts, clock)

    ahead = batches(0)
    with _filtering:
        clock.leave_out_waiting()
        for one in filters:
            one.begin()
        for attempt in range(plan.attempts):
            for entries, images, all_begun in ahead if attempt == 0 else batches(attempt):
                if all_begun and attempt + 1 == known:
                    yield
                    known = 0
                choice.take(entries, images.result()(), clock)
            if plan.select == "first":
                pending = [index for index in pending if choice.chosen[index].reason is not None]
    return choice.made(clock)


class _Choice:
    """Which images a shard takes, and what is told of the others."""

    def __init__(self, plan: Plan, shard: int, filters: Sequence[Filter]) -> None:
        self.plan, self.shard, self.filters = plan, shard, filters
        self.chosen: dict[int, Candidate] = {}
        self._rejects: Counter[str] = Counter()
        self._refused: dict[int, Counter[str]] = defaultdict(Counter)
        self._blurred = {one.name: one.blurred for one in filters}
        self._gallery = Gallery(shard)

    def take(self, entries: Sequence[Entry], images: Sequence[Image.Image], clock: Clock) -> None:
        """Filter and encode a batch, and keep the best attempt at each image."""
        labels, prompts, indices = zip(*((one.label, one.prompt, one.index) for one in entries), strict=True)
        batch = FilterBatch(images, labels, prompts, indices)
        accepted = []
        for place, candidate in enumerate(score(entries, batch, self.filters, self.plan.jpeg_quality, clock)):
            entry, reason = candidate.entry, candidate.reason
            before = self.chosen.get(entry.index)
            if candidate.beats(before):
                self.chosen[entry.index] = candidate
                accepted += [place] if reason is None else []
            if reason is not None:
                self._rejects[reason] += 1
                self._refused[entry.label][reason] += 1
                self._gallery.add(reason, images[place], entry, candidate.scores[reason], self._blurred[reason])
            elif before is not None and before.reason is None:
                self._rejects[SURPASSED] += 1
        for one in self.filters if accepted else ():
            one.accept(batch.at(accepted))

    def made(self, clock: Clock) -> GeneratedShard:
        """The shard, when all attempts were made."""
        plan, chosen = self.plan, self.chosen
        accepted_classes = {candidate.entry.label for candidate in chosen.values() if candidate.reason is None}
        without = {label: reasons for label, reasons in self._refused.items() if label not in accepted_classes}
        main_reasons = {label: reasons.most_common(1)[0][0] for label, reasons in without.items()}
        kept = [chosen[i] for i in plan.shard_range(self.shard) if chosen[i].reason is None or plan.keep == "best"]
        samples = [_sample(plan, candidate) for candidate in kept]
        return GeneratedShard(
            samples, dict(self._rejects), clock.seconds, main_reasons, self._gallery.rejects, clock.begun
        )


class Clock:
    """Adds up where the time of a shard goes."""

    def __init__(self) -> None:
        self.begun = math.inf
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        self.begun = min(self.begun, time.time())
        begun = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - begun)

    def leave_out_waiting(self) -> None:
        """Begin later by the time from the end of the first batch until now, in which another shard was filtered."""
        if "generate" in self.seconds:
            self.begun = max(self.begun, time.time() - self.seconds["generate"])

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds for a stage, each of which has one thread."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


class _Ahead(NamedTuple):
    """A batch that the generator has, or is about to work on."""

    entries: Sequence[Entry]
    images: Future[Callable[[], list[Image.Image]]]
    all_begun: bool
    """Whether it has those that follow, too."""


def _one_ahead(
    generator: AnyGenerator, references: ReferenceImages | None, batches: Sequence[Sequence[Entry]], clock: Clock
) -> Iterator[_Ahead]:
    """Batches in order, the first handed out at once; while one is worked on, the next is generated."""

    def start(entries: Sequence[Entry]) -> Callable[[], list[Image.Image]]:
        computed = generator.computed
        with clock.of("generate"):
            guides = () if references is None else (references.of(entries),)
            made = generator.start([entry.prompt for entry in entries], [entry.seed for entry in entries], *guides)
        clock.add("computed", generator.computed - computed)
        return made

    def each() -> Iterator[_Ahead]:
        ahead = first
        for number in range(1, len(batches) + 1):
            now, ahead = ahead, next(coming, None)
            assert now is not None
            yield _Ahead(*now, all_begun=number >= len(batches) - 1)

    coming = ((entries, _generator_thread.submit(start, entries)) for entries in batches)
    first = next(coming, None)
    return each()


def score(
    entries: Sequence[Entry], batch: FilterBatch, filters: Sequence[Filter], quality: int, clock: Clock
) -> list[Candidate]:
    """Pass a batch through the filters; each sees what the ones before it let through."""
    scores: list[dict[str, float | None]] = [{} for _ in entries]
    passed, last = [0] * len(entries), [0.0] * len(entries)
    reasons: list[str | None] = [None] * len(entries)
    for one in filters:
        left = [i for i in range(len(entries)) if reasons[i] is None]
        if not left:
            break
        with clock.of("filter"):
            result = one.score(batch.at(left))
        for i, value, keep in zip(left, result.scores, result.keep, strict=True):
            finite = math.isfinite(value)
            scores[i][one.name] = round(value, 6) if finite else None  # JSON knows no NaN
            last[i] = value if finite else -math.inf
            passed[i] += keep
            reasons[i] = None if keep else one.name
    with clock.of("encode"):
        jpegs = [_encode(image, quality) for image in batch.images]
    return [Candidate(*row) for row in zip(entries, jpegs, scores, passed, last, reasons, strict=True)]


def _encode(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)  # full colour resolution: small images need it
    return buffer.getvalue()


def _sample(plan: Plan, candidate: Candidate) -> Sample:
    entry = candidate.entry
    provenance = {
        "class": plan.classnames[entry.label],
        "image": entry.image,
        "attempt": entry.attempt,
        "seed": entry.seed,
        "generator": plan.generator.model or plan.generator.pipeline,
        "weights": plan.weights,
        "scores": candidate.scores,
        "accepted": candidate.reason is None,
    }
    if plan.guides:
        provenance["guide"] = plan.guide_of(entry.label, entry.image)
    return Sample(entry.index, entry.label, candidate.jpeg, entry.prompt, provenance)
