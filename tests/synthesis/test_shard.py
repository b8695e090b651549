"""Shards from a generator that paints its seed, and filters that read it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from syncclip.synthesis.filters import Filter, FilterBatch, FilterResult
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.shard import SURPASSED, GeneratedShard, begin_shard

MakePlan = Callable[..., Plan]


class SeedGenerator:
    """Paints grey squares of brightness `seed % 256`, and records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.computed = 7.0

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> Callable[[], list[Image.Image]]:
        assert len(prompts) == len(seeds)
        self.batches.append(list(seeds))
        self.computed += 0.25
        return lambda: [Image.new("RGB", (8, 8), (seed % 256,) * 3) for seed in seeds]


class Brighter(Filter):
    """Keeps images brighter than a bound, and records the accepted ones and all that it scored."""

    def __init__(self, bound: float, name: str = "dark") -> None:
        self.bound, self.name = bound, name
        self.accepted: dict[int, int] = {}
        self.scored: list[int] = []

    def begin(self) -> None:
        self.accepted = {}

    def score(self, batch: FilterBatch) -> FilterResult:
        self.scored += batch.indices
        scores = [float(image.getpixel((0, 0))[0]) for image in batch.images]
        return FilterResult(scores, [score > self.bound for score in scores])

    def accept(self, batch: FilterBatch) -> None:
        self.accepted.update(zip(batch.indices, (image.getpixel((0, 0))[0] for image in batch.images), strict=True))


def brightness(plan: Plan, index: int, attempt: int) -> int:
    return plan.entry(index, attempt).seed % 256


def attempts(plan: Plan, index: int) -> list[int]:
    return [brightness(plan, index, attempt) for attempt in range(plan.attempts)]


def generate(plan: Plan, shard: int, *bounds: float) -> tuple[GeneratedShard, SeedGenerator]:
    generator = SeedGenerator()
    return begin_shard(plan, shard, generator, [Brighter(bound) for bound in bounds])(), generator


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    return make_plan(10, shard_size=15, attempts=4)


@pytest.fixture
def best_plan(make_plan: MakePlan) -> Plan:
    return make_plan(10, shard_size=15, attempts=3, select="best", filters=[{"name": "blank"}])


def test_without_filters_every_image_is_its_first_attempt(make_plan: MakePlan) -> None:
    plan = make_plan(10, shard_size=15)
    shard, generator = generate(plan, 1)
    entries = [plan.entry(index) for index in range(15, 30)]
    assert [(sample.index, sample.label, sample.text) for sample in shard.samples] == [
        (entry.index, entry.label, entry.prompt) for entry in entries
    ]
    assert [sample.provenance["seed"] for sample in shard.samples] == [entry.seed for entry in entries]
    assert shard.samples[2].provenance["class"] == "fir tree"
    assert Image.open(io.BytesIO(shard.samples[2].image_bytes)).size == (8, 8)
    assert shard.rejects == {}
    assert shard.seconds["computed"] == 0.25 * len(generator.batches)


def test_a_rejected_image_is_generated_with_its_next_seed(plan: Plan) -> None:
    shard, generator = generate(plan, 0, 100)
    rejected = 0
    for sample in shard.samples:
        values = attempts(plan, sample.index)
        first = next((attempt for attempt, value in enumerate(values) if value > 100), None)
        expected = (values.index(max(values)), False) if first is None else (first, True)
        assert (sample.provenance["attempt"], sample.provenance["accepted"]) == expected
        assert sample.provenance["scores"] == {"dark": values[expected[0]]}
        rejected += 4 if first is None else first
    assert shard.rejects == {"dark": rejected}
    pending, batches = list(plan.shard_range(0)), []
    for attempt in range(4):
        seeds = [plan.entry(index, attempt).seed for index in pending]
        batches += [seeds[start : start + 4] for start in range(0, len(seeds), 4)]
        pending = [index for index in pending if brightness(plan, index, attempt) <= 100]
    assert generator.batches == batches


def test_images_that_never_pass_can_be_dropped(make_plan: MakePlan) -> None:
    plan = make_plan(10, shard_size=15, attempts=2, keep="drop")
    shard, _ = generate(plan, 0, 150)
    passing = [index for index in range(15) if max(attempts(plan, index)) > 150]
    assert [sample.index for sample in shard.samples] == passing
    assert 0 < len(passing) < 15


def test_best_makes_every_attempt_and_takes_the_best_score(best_plan: Plan) -> None:
    shard, generator = generate(best_plan, 0, -1)
    for sample in shard.samples:
        values = attempts(best_plan, sample.index)
        assert sample.provenance["attempt"] == values.index(max(values))
    assert sum(map(len, generator.batches)) == 45
    assert shard.rejects == {SURPASSED: 30}


def test_more_passed_filters_beat_a_higher_score(make_plan: MakePlan) -> None:
    plan = make_plan(10, shard_size=15, attempts=3)
    shard = begin_shard(plan, 0, SeedGenerator(), [Brighter(128, "first"), Brighter(255, "second")])()
    for sample in shard.samples:
        values = attempts(plan, sample.index)
        assert brightness(plan, sample.index, sample.provenance["attempt"]) == max(values)
        assert ("second" in sample.provenance["scores"]) == (max(values) > 128)
    assert set(shard.rejects) == {"first", "second"}


def test_a_score_of_nan_is_the_worst_and_stored_as_null(plan: Plan) -> None:
    class Broken(Brighter):
        def score(self, batch: FilterBatch) -> FilterResult:
            return FilterResult([float("nan")] * len(batch), [False] * len(batch))

    shard = begin_shard(plan, 0, SeedGenerator(), [Broken(0)])()
    assert {sample.provenance["attempt"] for sample in shard.samples} == {0}
    assert shard.samples[0].provenance["scores"] == {"dark": None}


@pytest.mark.parametrize("name", ["plan", "best_plan"])
def test_filters_receive_the_accepted_images_of_their_shard(name: str, request: pytest.FixtureRequest) -> None:
    plan, last = request.getfixturevalue(name), Brighter(100)
    for shard in (0, 1):
        samples = begin_shard(plan, shard, SeedGenerator(), [Brighter(50, "black"), last])().samples
        accepted = [sample for sample in samples if sample.provenance["accepted"]]
        assert last.accepted == {sample.index: sample.provenance["seed"] % 256 for sample in accepted} != {}


def test_classes_without_an_accepted_image_are_reported_with_the_main_reason(plan: Plan) -> None:
    shard = begin_shard(plan, 0, SeedGenerator(), [Brighter(60, "black"), Brighter(255, "white")])()
    for label in range(3):
        values = [value for index in plan.shard_range(0) if index % 3 == label for value in attempts(plan, index)]
        black = sum(value <= 60 for value in values) > len(values) / 2
        assert shard.classes_without_accepted[label] == ("black" if black else "white")
    assert generate(plan, 0, -1)[0].classes_without_accepted == {}


class Patient(Brighter):
    """Scores the last image of shard 0 in its last independent attempt once the generator has started shard 1."""

    def __init__(self, plan: Plan, generator: SeedGenerator) -> None:
        super().__init__(100)
        self.generator, self.first = generator, plan.entry(plan.shard_range(1)[0]).seed
        self.attempts = plan.attempts if plan.select == "best" else 1

    def score(self, batch: FilterBatch) -> FilterResult:
        deadline = time.monotonic() + 240
        self.attempts -= 14 in batch.indices
        while self.attempts == 0 and not any(self.first in seeds for seeds in self.generator.batches):
            assert time.monotonic() < deadline, "the generator waits for the filter"
            time.sleep(0.01)
        return super().score(batch)


@pytest.mark.parametrize("values", [{}, {"select": "best"}, {"attempts": 1}])
def test_the_next_shard_is_generated_while_one_is_filtered(make_plan: MakePlan, values: dict[str, Any]) -> None:
    plan = make_plan(10, shard_size=15, filters=[{"name": "blank"}], **{"attempts": 3, **values})
    separate = [generate(plan, shard, 100)[0] for shard in (0, 1)]
    generator = SeedGenerator()
    patient = Patient(plan, generator)
    with ThreadPoolExecutor(2) as threads:
        first = begin_shard(plan, 0, generator, [patient])
        second = threads.submit(lambda: begin_shard(plan, 1, generator, [patient])())
        overlapped = [first(), second.result()]
    for shard, expected in zip(overlapped, separate, strict=True):
        assert shard._replace(seconds={}, started=0.0) == expected._replace(seconds={}, started=0.0)
        assert shard.seconds["computed"] == expected.seconds["computed"]
    shards = [index // 15 for index in patient.scored]
    assert shards == sorted(shards), "filters see one shard at a time"
    assert overlapped[0].started <= overlapped[1].started


def test_a_failed_shard_does_not_affect_the_next(make_plan: MakePlan) -> None:
    class Failing(Brighter):
        def score(self, batch: FilterBatch) -> FilterResult:
            assert 14 not in batch.indices, "the last image can't be scored"
            return super().score(batch)

    plan, generator, failing = make_plan(10, shard_size=15), SeedGenerator(), Failing(0)
    expected = generate(plan, 1, 100)[0].samples
    with ThreadPoolExecutor(2) as threads:
        first = begin_shard(plan, 0, generator, [failing])
        second = threads.submit(lambda: begin_shard(plan, 1, generator, [Brighter(100)])())
        with pytest.raises(AssertionError, match="can't be scored"):
            first()
        assert second.result().samples == expected
        begin_shard(plan, 0, generator, [failing])  # never finished
        assert threads.submit(lambda: begin_shard(plan, 1, generator, [Brighter(100)])()).result().samples == expected


def test_the_time_of_a_shard_excludes_waiting_for_another(make_plan: MakePlan) -> None:
    released = threading.Event()

    class Slow(Brighter):
        def score(self, batch: FilterBatch) -> FilterResult:
            if 14 in batch.indices:
                released.wait(240)
            return super().score(batch)

    plan, generator = make_plan(10, shard_size=15), SeedGenerator()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(begin_shard(plan, 0, generator, [Slow(0)]))
        second = threads.submit(lambda: begin_shard(plan, 1, generator, [])())
        while len(generator.batches) < -(-15 // plan.batch) + 1:  # until the first batch of the second shard
            time.sleep(0.01)
        time.sleep(0.2)
        end = time.time()
        released.set()
        first.result()
        assert second.result().started >= end - second.result().seconds["generate"]
