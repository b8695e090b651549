"""A shard in memory: images generated, filtered and encoded, attempt by attempt, as the plan alone decides."""

from __future__ import annotations

import io
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

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
    """Generate the images of a shard, attempt by attempt, in batches that plan and scores alone decide.

    Every pending image is generated with its first seed, in batches of `generator.batch_size` in the order of their
    index; those that were rejected form the batches of the next attempt, and so on. Memory holds two batches of images,
    since the next one is generated while one is filtered and encoded, and one JPEG of each sample.
    """
    size, pending = plan.batch, list(plan.shard_range(shard))
    chosen: dict[int, Candidate] = {}
    rejects: Counter[str] = Counter()
    refused: dict[int, Counter[str]] = defaultdict(Counter)
    blurred = {one.name: one.blurred for one in filters}
    gallery, clock = Gallery(shard), Clock()
    computed = generator.computed
    for one in filters:
        one.begin()
    for attempt in range(plan.attempts):
        batches = [[plan.entry(i, attempt) for i in pending[at : at + size]] for at in range(0, len(pending), size)]
        for entries, images in _one_ahead(generator, references, batches, clock):
            labels, prompts, indices = zip(*((one.label, one.prompt, one.index) for one in entries), strict=True)
            batch = FilterBatch(images, labels, prompts, indices)
            accepted = []
            for place, candidate in enumerate(score(entries, batch, filters, plan.jpeg_quality, clock)):
                entry, reason = candidate.entry, candidate.reason
                before = chosen.get(entry.index)
                if candidate.beats(before):
                    chosen[entry.index] = candidate
                    accepted += [place] if reason is None else []
                if reason is not None:
                    rejects[reason] += 1
                    refused[entry.label][reason] += 1
                    gallery.add(reason, images[place], entry, candidate.scores[reason], blurred[reason])
                elif before is not None and before.reason is None:
                    rejects[SURPASSED] += 1
            for one in filters if accepted else ():
                one.accept(batch.at(accepted))
        if plan.choose == "first":
            pending = [index for index in pending if chosen[index].reason is not None]
    accepted_classes = {candidate.entry.label for candidate in chosen.values() if candidate.reason is None}
    without = {label: reasons for label, reasons in refused.items() if label not in accepted_classes}
    main_reasons = {label: reasons.most_common(1)[0][0] for label, reasons in without.items()}
    kept = [chosen[i] for i in plan.shard_range(shard) if chosen[i].reason is None or plan.keep == "best"]
    samples = [_sample(plan, candidate) for candidate in kept]
    seconds = {**clock.seconds, "computed": generator.computed - computed}
    return GeneratedShard(samples, dict(rejects), seconds, main_reasons, gallery.rejects)


class Clock:
    """Adds up where the time of a shard goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


def _one_ahead(
    generator: AnyGenerator, references: ReferenceImages | None, batches: Sequence[Sequence[Entry]], clock: Clock
) -> Iterator[tuple[Sequence[Entry], list[Image.Image]]]:
    """Batches with their images, in order; while one is worked on, the next is generated."""

    def start(entries: Sequence[Entry]) -> Callable[[], list[Image.Image]]:
        with clock.of("generate"):
            guides = () if references is None else (references.of(entries),)
            return generator.start([entry.prompt for entry in entries], [entry.seed for entry in entries], *guides)

    coming = ((entries, _generator_thread.submit(start, entries)) for entries in batches)
    ahead = next(coming, None)
    while ahead is not None:
        (entries, images), ahead = ahead, next(coming, None)
        yield entries, images.result()()


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
