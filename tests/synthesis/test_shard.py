"""Generating a shard with a generator that paints its seed, and filters that read it."""

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
from syncclip.synthesis.shard import SURPASSED, GeneratedShard, begin_shard, generate_shard


class SeedGenerator:
    """Paints flat grey squares of the brightness `seed % 256`, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.computed = 7.0

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> Callable[[], list[Image.Image]]:
        assert len(prompts) == len(seeds)
        self.batches.append(list(seeds))
        self.computed += 0.25
        return lambda: [Image.new("RGB", (8, 8), (seed % 256,) * 3) for seed in seeds]


class Brighter(Filter):
    """Keeps what is brighter than a bound."""

    def __init__(self, bound: float, name: str = "dark") -> None:
        self.bound, self.name = bound, name

    def score(self, batch: FilterBatch) -> FilterResult:
        scores = [float(image.getpixel((0, 0))[0]) for image in batch.images]
        return FilterResult(scores, [score > self.bound for score in scores])


def brightness(plan: Plan, index: int, attempt: int) -> int:
    return plan.entry(index, attempt).seed % 256


def generate(plan: Plan, shard: int, bound: float) -> tuple[GeneratedShard, SeedGenerator]:
    generator = SeedGenerator()
    return generate_shard(plan, shard, generator, [Brighter(bound)]), generator


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan(10, shard_size=15, attempts=4)


def test_without_filters_every_image_is_its_first_attempt(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(10, shard_size=15)
    generated = generate_shard(plan, 1, SeedGenerator(), [])
    assert [sample.index for sample in generated.samples] == list(range(15, 30))
    assert [sample.label for sample in generated.samples] == [index % 3 for index in range(15, 30)]
    assert [sample.provenance["seed"] for sample in generated.samples] == [plan.entry(i).seed for i in range(15, 30)]
    assert generated.rejects == {}


def test_what_the_device_computed_for_the_shard_is_reported(make_plan: Callable[..., Plan]) -> None:
    made, generator = generate(make_plan(4, shard_size=15, attempts=1), 0, bound=-1)
    assert made.seconds["computed"] == 0.25 * len(generator.batches)


def test_a_rejected_image_goes_to_its_next_seed_and_is_counted(plan: Plan) -> None:
    generated, _ = generate(plan, 0, bound=100)
    for sample in generated.samples:
        tries = [brightness(plan, sample.index, attempt) for attempt in range(4)]
        first = next((attempt for attempt, value in enumerate(tries) if value > 100), None)
        if first is not None:
            assert (sample.provenance["attempt"], sample.provenance["accepted"]) == (first, True)
        else:
            assert (sample.provenance["attempt"], sample.provenance["accepted"]) == (tries.index(max(tries)), False)
    wasted = sum(next((a for a in range(4) if brightness(plan, index, a) > 100), 4) for index in plan.shard_range(0))
    assert generated.rejects == {"dark": wasted}


def test_images_that_never_pass_are_dropped_if_the_plan_says_so(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(10, shard_size=15, attempts=2, keep="drop")
    generated, _ = generate(plan, 0, bound=150)
    passing = [i for i in range(15) if any(brightness(plan, i, attempt) > 150 for attempt in range(2))]
    assert [sample.index for sample in generated.samples] == passing
    assert 0 < len(passing) < 15


def test_best_generates_every_attempt_and_takes_the_best_score(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(10, shard_size=15, attempts=3, select="best", filters=[{"name": "blank"}])
    generated, generator = generate(plan, 0, bound=-1)
    for sample in generated.samples:
        tries = [brightness(plan, sample.index, attempt) for attempt in range(3)]
        assert sample.provenance["attempt"] == tries.index(max(tries))
    assert sum(map(len, generator.batches)) == 45
    assert generated.rejects == {SURPASSED: 30}


def test_who_comes_further_through_the_filters_beats_who_scores_higher_before(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(10, shard_size=15, attempts=3)

    class Dim(Brighter):
        def score(self, batch: FilterBatch) -> FilterResult:
            scores, _ = super().score(batch)
            return FilterResult(scores, [False] * len(scores))

    generated = generate_shard(plan, 0, SeedGenerator(), [Brighter(128, "first"), Dim(0, "second")])
    for sample in generated.samples:
        tries = [brightness(plan, sample.index, attempt) for attempt in range(3)]
        assert brightness(plan, sample.index, sample.provenance["attempt"]) == max(tries)
        assert ("second" in sample.provenance["scores"]) == (max(tries) > 128)
    assert set(generated.rejects) == {"first", "second"}


def test_batches_are_full_follow_the_index_and_hold_only_what_is_pending(plan: Plan) -> None:
    _, generator = generate(plan, 0, bound=100)
    pending, expected = list(plan.shard_range(0)), []
    for attempt in range(4):
        seeds = [plan.entry(index, attempt).seed for index in pending]
        expected += [seeds[start : start + 4] for start in range(0, len(seeds), 4)]
        pending = [index for index in pending if brightness(plan, index, attempt) <= 100]
    assert generator.batches == expected


def test_scores_and_prompt_travel_with_the_image(plan: Plan) -> None:
    sample = generate(plan, 0, bound=-1)[0].samples[5]
    assert sample.text == "a photo of a fir tree."
    assert sample.provenance["class"] == "fir tree"
    assert sample.provenance["scores"] == {"dark": brightness(plan, 5, 0)}
    assert Image.open(io.BytesIO(sample.image_bytes)).size == (8, 8)


def test_a_score_that_is_no_number_loses_and_becomes_null(plan: Plan) -> None:
    class Broken(Brighter):
        def score(self, batch: FilterBatch) -> FilterResult:
            return FilterResult([float("nan")] * len(batch), [False] * len(batch))

    generated = generate_shard(plan, 0, SeedGenerator(), [Broken(0)])
    assert {sample.provenance["attempt"] for sample in generated.samples} == {0}
    assert generated.samples[0].provenance["scores"] == {"dark": None}


class Diary(Brighter):
    """Writes down what it is told."""

    def __init__(self, bound: float) -> None:
        super().__init__(bound)
        self.accepted: list[tuple[int, int]] = []

    def begin(self) -> None:
        self.accepted = []

    def accept(self, batch: FilterBatch) -> None:
        shades = [image.getpixel((0, 0))[0] for image in batch.images]
        self.accepted += zip(batch.indices, shades, strict=True)


def test_a_filter_is_reported_what_was_accepted_in_its_shard(plan: Plan) -> None:
    diary = Diary(100)
    for shard in (0, 1):
        generated = generate_shard(plan, shard, SeedGenerator(), [Brighter(50, "black"), diary])
        taken = [sample for sample in generated.samples if sample.provenance["accepted"]]
        expected = [(sample.index, sample.provenance["seed"] % 256) for sample in taken]
        assert sorted(diary.accepted) == expected
        assert len(expected) > 0


def test_of_several_accepted_attempts_the_filter_is_reported_of_each_that_was_better(
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan(10, shard_size=15, attempts=3, select="best", filters=[{"name": "blank"}])
    diary = Diary(-1)
    generated = generate_shard(plan, 0, SeedGenerator(), [diary])
    assert dict(diary.accepted) == {sample.index: sample.provenance["seed"] % 256 for sample in generated.samples}


def test_classes_without_an_accepted_image_are_named_with_the_main_reason(plan: Plan) -> None:
    generated = generate_shard(plan, 0, SeedGenerator(), [Brighter(60, "black"), Brighter(255, "white")])
    for label in range(3):
        shades = [brightness(plan, i, a) for i in plan.shard_range(0) if i % 3 == label for a in range(4)]
        assert generated.classes_without_accepted[label] == (
            "black" if sum(s <= 60 for s in shades) > len(shades) / 2 else "white"
        )
    assert generate_shard(plan, 0, SeedGenerator(), [Brighter(-1)]).classes_without_accepted == {}


class Patient(Diary):
    """Waits with the last image of shard 0, when all must be generated for the last time, until the generator has begun
    with shard 1; notes whose images it sees."""

    def __init__(self, plan: Plan, generator: SeedGenerator) -> None:
        super().__init__(100)
        self.plan, self.generator = plan, generator
        self.attempts = plan.attempts if plan.select == "best" else 1
        self.seen: list[int] = []

    def score(self, batch: FilterBatch) -> FilterResult:
        first = self.plan.entry(self.plan.shard_range(1)[0]).seed
        deadline = time.monotonic() + 240
        self.attempts -= 14 in batch.indices
        while self.attempts == 0 and not any(first in seeds for seeds in self.generator.batches):
            assert time.monotonic() < deadline, "the generator waits for the filter"
            time.sleep(0.01)
        self.seen += [index // 15 for index in batch.indices]
        return super().score(batch)


@pytest.mark.parametrize("choice", [{}, {"select": "best"}, {"attempts": 1}])
def test_the_generator_continues_with_the_next_shard_while_filters_are_at_one(
    make_plan: Callable[..., Plan], choice: dict[str, Any]
) -> None:
    plan = make_plan(10, shard_size=15, filters=[{"name": "blank"}], **{"attempts": 3, **choice})
    apart = [generate_shard(plan, shard, SeedGenerator(), [Diary(100)]) for shard in (0, 1)]
    generator = SeedGenerator()
    patient = Patient(plan, generator)
    with ThreadPoolExecutor(2) as rows:
        first = begin_shard(plan, 0, generator, [patient])
        second = rows.submit(lambda: begin_shard(plan, 1, generator, [patient])())
        made = [first(), second.result()]
    for one, other in zip(made, apart, strict=True):
        assert one._replace(seconds={}, begun=0.0) == other._replace(seconds={}, begun=0.0)
        assert one.seconds["computed"] == other.seconds["computed"]
    assert patient.seen == sorted(patient.seen), "it is told of one shard at a time"
    assert made[0].begun <= made[1].begun


def test_a_shard_that_fails_lets_the_next_one_be_finished(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(10, shard_size=15)
    alone = generate_shard(plan, 1, SeedGenerator(), [Diary(100)])
    generator, broken = SeedGenerator(), Brighter(0)
    score = broken.score

    def failing(batch: FilterBatch) -> FilterResult:
        assert 14 not in batch.indices, "the last image can't be scored"
        return score(batch)

    broken.score = failing  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as rows:
        first = begin_shard(plan, 0, generator, [broken])
        second = rows.submit(lambda: begin_shard(plan, 1, generator, [Diary(100)])())
        with pytest.raises(AssertionError, match="can't be scored"):
            first()
        assert second.result().samples == alone.samples
        begin_shard(plan, 0, generator, [broken])  # and one that nobody finishes
        assert rows.submit(lambda: generate_shard(plan, 1, generator, [Diary(100)])).result().samples == alone.samples


def test_time_in_which_another_shard_is_filtered_is_no_part_of_a_shard(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(10, shard_size=15)
    generator, slow = SeedGenerator(), Brighter(0)
    score, ended = slow.score, threading.Event()

    def waiting(batch: FilterBatch) -> FilterResult:
        if 14 in batch.indices:
            ended.wait(240)
        return score(batch)

    slow.score = waiting  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as rows:
        first = begin_shard(plan, 0, generator, [slow])
        others = rows.submit(first)
        second = rows.submit(lambda: begin_shard(plan, 1, generator, [])())
        while len(generator.batches) < -(-15 // plan.batch) + 1:  # until the second's first batch is made
            time.sleep(0.01)
        time.sleep(0.2)
        released = time.time()
        ended.set()
        others.result()
        assert second.result().begun >= released - second.result().seconds["generate"]
