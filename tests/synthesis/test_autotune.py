"""Measured settings, with faked times where a choice depends on them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.core.settings import UserError
from syncclip.shards.writer import write_shard
from syncclip.synthesis import autotune
from syncclip.synthesis.autotune import PROBE_BATCHES, Effect, best_batch, even_parts, measure, tuned, with_batch_size
from syncclip.synthesis.filters import build_filters
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import Plan, agreed_plan, read_plan, write_plan
from syncclip.synthesis.shard import begin_shard
from syncclip.workers import job
from syncclip.workers.settings import Pool
from tests.synthesis.generators.conftest import eager_backend  # noqa: F401

MakePlan = Callable[..., Plan]


@pytest.fixture
def auto_plan(make_plan: MakePlan, pipeline: Path) -> Plan:
    return make_plan(4, generator={"pipeline": str(pipeline), "steps": 1, "batch_size": "auto"})


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_batch_size_is_measured_in_a_ray_task_and_stored(auto_plan: Plan, tmp_path: Path) -> None:
    plan = write_plan(tuned(auto_plan, locate(auto_plan.generator), Pool()), str(tmp_path))
    assert plan.generator.batch_size in (1, 2, 3, 6, 12)
    assert agreed_plan(auto_plan, read_plan(str(tmp_path)), str(tmp_path)) == plan
    wrong = GeneratorSettings(pipeline=auto_plan.generator.pipeline, scheduler="Eule", batch_size="auto")
    with pytest.raises(UserError, match="no scheduler 'Eule'"):
        tuned(auto_plan.model_copy(update={"generator": wrong}), locate(wrong), Pool())


def test_auto_takes_the_stored_batch_size_and_is_never_stored(auto_plan: Plan, tmp_path: Path) -> None:
    def with_size(size: int) -> Plan:
        return auto_plan.model_copy(update={"generator": auto_plan.generator.model_copy(update={"batch_size": size})})

    with pytest.raises(AssertionError, match="measured before"):
        write_plan(auto_plan, str(tmp_path))
    stored = write_plan(with_size(3), str(tmp_path))
    assert agreed_plan(auto_plan, read_plan(str(tmp_path)), str(tmp_path)) == stored
    with pytest.raises(UserError, match="generator.batch_size: 3 -> 5"):
        agreed_plan(with_size(5), stored, str(tmp_path))


@given(st.integers(1, 5000))
def test_batch_sizes_at_most_double(total: int) -> None:
    parts = even_parts(total)
    assert parts[0] == 1 and parts[-1] == total and parts == sorted(set(parts))
    assert all(larger <= 2 * smaller for smaller, larger in pairwise(parts))


@pytest.mark.parametrize(
    ("seconds", "expected", "measured"),
    [
        ({1: 1.0, 2: 1.2, 4: 2.0, 8: 3.9, 16: 8.4}, 4, [1, 2, 4, 8, 16]),  # per image 1, 0.6, 0.5, 0.4875, 0.525
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: None, 16: 1.0}, 4, [1, 2, 4, 8]),  # out of memory
        ({1: 40.0, 2: 40.0, 4: 40.0}, 2, [1, 2]),  # out of time
    ],
)
def test_the_smallest_batch_near_the_fastest_is_chosen(
    seconds: dict[int, float | None], expected: int, measured: list[int]
) -> None:
    sizes: list[int] = []
    assert best_batch(list(seconds), lambda size: (sizes.append(size), seconds[size])[1], budget=60.0) == expected
    assert sizes == measured


def test_too_little_memory_for_one_image_is_an_error() -> None:
    with pytest.raises(UserError, match="a batch of 1 image doesn't fit in memory"):
        best_batch([1, 2], lambda size: None)


@pytest.mark.parametrize(
    ("images", "expected"), [(6, [1, 1, 2, 2, 3, 3, 6, 6]), (88, [1, 1, 2, 2, 3, 3, 6, 6, 11, 11, 22, 22])]
)
def test_a_batch_size_is_measured_once_and_small_on_a_cpu(
    images: int, expected: list[int], pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(Generator, "generate", lambda self, prompts, seeds: sizes.append(len(prompts)))
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: sum(size**0.5 for size in sizes))
    settings = GeneratorSettings(pipeline=str(pipeline), steps=9, batch_size="auto")
    measured = with_batch_size(settings, "cpu", "", ["a cat", "a dog"], images)
    assert measured == settings.model_copy(update={"batch_size": max(expected)})
    assert sizes == expected
    assert with_batch_size(measured, "cpu", "", ["a cat"], images) is measured


@pytest.mark.usefixtures("eager_backend")
def test_the_effect_of_a_speed_is_measured_against_exact_images(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"exact": 6.0, "fast": 2.0}
    monkeypatch.setattr(autotune, "_seconds", lambda generator, *_: seconds[generator.settings.speed])
    exact, fast = (
        GeneratorSettings(pipeline=str(pipeline), steps=2, speed=speed, batch_size=3) for speed in ("exact", "fast")
    )
    effect = autotune.effect(fast, "cpu", "", ["a cat", "a dog"])
    images = [
        [np.asarray(image, float) for image in Generator(settings).generate(["a cat", "a dog", "a cat"], range(3))]
        for settings in (exact, fast)
    ]
    assert effect is not None and effect.gain == 3.0
    assert effect.difference == pytest.approx(np.abs(np.array(images[0]) - images[1]).mean())
    assert effect.difference > 0
    monkeypatch.setattr(autotune, "_seconds", lambda *_: None)
    assert autotune.effect(fast, "cpu", "", ["a cat"]) is None, "out of memory"


def test_a_probe_measures_throughput_bytes_and_rejects(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(8, filters=[{"name": "blank", "minimum": 110}], attempts=2, threads=1)
    now = iter(range(0, 10_000, 3))  # a clock that advances 3 seconds at each call
    monkeypatch.setattr(job.time, "time", lambda: float(next(now)))
    rate = measure(plan, str(tmp_path / "probe"))
    size = PROBE_BATCHES * 4
    part = plan.model_copy(update={"shard_size": size})
    generated = begin_shard(part, 0, Generator(plan.generator), build_filters(plan.filters, plan.classnames))()
    assert rate.image_bytes == write_shard(str(tmp_path / "same"), 0, generated.samples).bytes / size
    assert rate.rejected == sum(generated.rejects.values()) / size > 0
    assert 0 < rate.images <= size / 3
    assert rate.load == 0.0  # both runs call this clock equally often


@pytest.mark.usefixtures("eager_backend")
def test_a_probe_measures_the_effect_of_another_speed(
    make_plan: MakePlan, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(autotune, "effect", lambda *arguments: calls.append(arguments) or Effect(1.5, 2.0))
    generator = {"pipeline": str(pipeline), "batch_size": 4, "steps": 1}
    plan = make_plan(2, threads=1, generator={**generator, "speed": "fast"})
    assert measure(plan, str(tmp_path / "fast")).effect == Effect(1.5, 2.0)
    ((settings, device, _, prompts),) = calls
    assert settings.speed == "fast" and device == "cpu" and prompts[0] == plan.entry(0).prompt
    exact = measure(make_plan(1, threads=1, generator=generator), str(tmp_path / "exact"))
    assert exact.images > 0 and exact.rejected == 0, "also for a plan smaller than the probe"
    assert exact.effect is None and exact.memory is None and len(calls) == 1


def test_a_failing_generator_is_reported(make_plan: MakePlan, pipeline: Path, tmp_path: Path) -> None:
    generator = {"pipeline": str(pipeline), "batch_size": 4, "scheduler": "NoScheduler"}
    with pytest.raises(UserError, match="failed in a trial run: .*no scheduler 'NoScheduler'"):
        measure(make_plan(1, generator=generator), str(tmp_path))
