"""In-memory generation of one shard: images are generated, filtered and encoded in one round per attempt."""

from __future__ import annotations

import io
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from PIL import Image

from syncclip.shards.writer import Sample
from syncclip.synthesis.filters import Filter, FilterBatch
from syncclip.synthesis.generators.pipeline import AnyGenerator
from syncclip.synthesis.mark import mark_of
from syncclip.synthesis.plan import Entry, Plan
from syncclip.synthesis.references import ReferenceImages
from syncclip.synthesis.rejects import Gallery, Reject

SURPASSED = "surpassed"
"""Rejection reason for images that passed the filters but were not the best attempt."""

_generator_thread = ThreadPoolExecutor(1, "generate")
"""Single thread that generates all images in this process, since torch starts a thread pool per calling thread."""

_filtering = threading.Lock()
"""Lock held while a shard's images are filtered, since filters keep state for a single shard."""


class GeneratedShard(NamedTuple):
    """A generated shard in memory."""

    samples: list[Sample]
    rejects: dict[str, int]
    """Number of rejected attempts by reason."""
    seconds: dict[str, float]
    """Seconds spent in the overlapping stages `generate`, `filter` and `encode`, and `computed` (see `Generator`)."""
    classes_without_accepted: dict[int, str]
    """Main rejection reason for each class without accepted images, keyed by class id."""
    gallery: list[Reject]
    """Thumbnails of some rejects."""
    started: float
    """Start time in seconds since the Unix epoch, shifted by the time spent waiting for another shard."""


@dataclass
class Candidate:
    """A generated and filtered image."""

    entry: Entry
    jpeg: bytes = b""
    scores: dict[str, float | None] = field(default_factory=dict)
    passed: int = 0
    """Number of filters that the image passed."""
    score: float = 0.0
    """Score from the last filter that was applied."""
    reason: str | None = None
    """Name of the filter that rejected the image; None: accepted."""


def begin_shard(
    plan: Plan,
    shard: int,
    generator: AnyGenerator,
    filters: Sequence[Filter],
    references: ReferenceImages | None = None,
) -> Callable[[], GeneratedShard]:
    """Submit a shard to the generator, and return a function that completes it.

    The next shard may be submitted before the function is called. Images are generated in index order, in batches of
    `generator.batch_size`. Rejected images form new batches for the next attempt. Each batch is filtered and encoded
    while the next one is generated.
    """
    selection, clock = _Selection(plan, shard, filters), Clock()

    def steps() -> Generator[None, None, GeneratedShard]:
        """Yield when all batches that do not depend on scores have been submitted, then return the shard."""
        pending = list(plan.shard_range(shard))
        independent_attempts = 1 if plan.select == "first" else plan.attempts

        def batches(attempt: int) -> Iterator[_Batch]:
            starts = range(0, len(pending), plan.batch)
            parts = [[plan.entry(i, attempt) for i in pending[at : at + plan.batch]] for at in starts]
            return _prefetched(generator, references, parts, clock)

        first = batches(0)
        with _filtering:
            clock.skip_waiting()
            for stage in filters:
                stage.begin()
            for attempt in range(plan.attempts):
                for entries, images, is_last_submitted in first if attempt == 0 else batches(attempt):
                    if is_last_submitted and attempt + 1 == independent_attempts:
                        yield
                        independent_attempts = 0
                    selection.add(entries, images.result()(), clock)
                if plan.select == "first":
                    pending = [index for index in pending if selection.best[index].reason is not None]
        return selection.finish(clock)

    def finish() -> GeneratedShard:
        try:
            next(running)
        except StopIteration as ended:
            return cast(GeneratedShard, ended.value)
        raise AssertionError("`steps` yields exactly once")

    running = steps()
    next(running)
    return finish


class _Selection:
    """Selection of the best generation attempt for each image in a shard, with statistics of rejected attempts."""

    def __init__(self, plan: Plan, shard: int, filters: Sequence[Filter]) -> None:
        self.plan, self.shard, self.filters = plan, shard, filters
        self.best: dict[int, Candidate] = {}
        self._rejects: Counter[str] = Counter()
        self._class_rejects: dict[int, Counter[str]] = defaultdict(Counter)
        self._blurred = {stage.name: stage.blurred for stage in filters}
        self._gallery = Gallery(shard)

    def add(self, entries: Sequence[Entry], images: Sequence[Image.Image], clock: Clock) -> None:
        """Filter and encode a batch, and keep the best attempt for each image."""
        labels, prompts, indices = zip(*((entry.label, entry.prompt, entry.index) for entry in entries), strict=True)
        batch = FilterBatch(images, labels, prompts, indices)
        accepted = []
        for row, candidate in enumerate(score(self.plan, entries, batch, self.filters, clock)):
            entry, reason = candidate.entry, candidate.reason
            previous = self.best.get(entry.index)
            # An attempt is better if it passes more filters or, for the same number of filters, scores higher.
            if previous is None or (candidate.passed, candidate.score) > (previous.passed, previous.score):
                self.best[entry.index] = candidate
                accepted += [row] if reason is None else []
            if reason is not None:
                self._rejects[reason] += 1
                self._class_rejects[entry.label][reason] += 1
                self._gallery.add(reason, images[row], entry, candidate.scores[reason], self._blurred[reason])
            elif previous is not None and previous.reason is None:
                self._rejects[SURPASSED] += 1
        for stage in self.filters if accepted else ():
            stage.accept(batch.at(accepted))

    def finish(self, clock: Clock) -> GeneratedShard:
        """Return the generated shard; call this method after all attempts."""
        plan, best = self.plan, self.best
        accepted = {candidate.entry.label for candidate in best.values() if candidate.reason is None}
        main_reasons = {
            label: reasons.most_common(1)[0][0]
            for label, reasons in self._class_rejects.items()
            if label not in accepted
        }
        kept = [best[i] for i in plan.shard_range(self.shard) if best[i].reason is None or plan.keep == "best"]
        samples = [_sample(plan, candidate) for candidate in kept]
        return GeneratedShard(
            samples, dict(self._rejects), clock.seconds, main_reasons, self._gallery.rejects, clock.started
        )


class Clock:
    """Time spent on a shard, by stage."""

    def __init__(self) -> None:
        self.started = math.inf
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the duration of the `with` block to a stage."""
        self.started = min(self.started, time.time())
        started = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - started)

    def skip_waiting(self) -> None:
        """Move `started` forward by the time that the first batch waited while another shard was filtered."""
        if "generate" in self.seconds:
            self.started = max(self.started, time.time() - self.seconds["generate"])

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


class _Batch(NamedTuple):
    """A submitted batch."""

    entries: Sequence[Entry]
    images: Future[Callable[[], list[Image.Image]]]
    is_last_submitted: bool
    """Whether all subsequent batches have been submitted."""


def _prefetched(
    generator: AnyGenerator, references: ReferenceImages | None, batches: Sequence[Sequence[Entry]], clock: Clock
) -> Iterator[_Batch]:
    """Yield batches in order; the first is submitted immediately, and each other before its predecessor is yielded."""

    def start(entries: Sequence[Entry]) -> Callable[[], list[Image.Image]]:
        computed = generator.computed
        with clock.of("generate"):
            guides = () if references is None else (references.of(entries),)
            decode = generator.start([entry.prompt for entry in entries], [entry.seed for entry in entries], *guides)
        clock.add("computed", generator.computed - computed)
        return decode

    def each() -> Iterator[_Batch]:
        following = first
        for number in range(1, len(batches) + 1):
            current, following = following, next(submitted, None)
            assert current is not None
            yield _Batch(*current, is_last_submitted=number >= len(batches) - 1)

    submitted = ((entries, _generator_thread.submit(start, entries)) for entries in batches)
    first = next(submitted, None)
    return each()


def score(
    plan: Plan, entries: Sequence[Entry], batch: FilterBatch, filters: Sequence[Filter], clock: Clock
) -> list[Candidate]:
    """Apply each filter to the images that passed the previous filters, and encode all images."""
    candidates = [Candidate(entry) for entry in entries]
    for stage in filters:
        rows = [row for row, candidate in enumerate(candidates) if candidate.reason is None]
        if not rows:
            break
        with clock.of("filter"):
            result = stage.score(batch.at(rows))
        for row, value, keep in zip(rows, result.scores, result.keep, strict=True):
            candidate, finite = candidates[row], math.isfinite(value)
            candidate.scores[stage.name] = round(value, 6) if finite else None  # JSON has no NaN
            candidate.score = value if finite else -math.inf
            candidate.passed += keep
            candidate.reason = None if keep else stage.name
    with clock.of("encode"):
        for candidate, image in zip(candidates, batch.images, strict=True):
            candidate.jpeg = _encode(image, plan.jpeg_quality, mark_of(plan, candidate.entry))
    return candidates


def _encode(image: Image.Image, quality: int, xmp: bytes) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0, xmp=xmp)  # small images need full chroma resolution
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
