from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syncclip.synthesis.generators.autotune import Effect

from syncclip.core.settings import UserError
from syncclip.shards.writer import write_shard
from syncclip.synthesis import autotune, worker
from syncclip.synthesis.autotune import BATCHES, measure, tuned
from syncclip.synthesis.filters import build_filters
from syncclip.synthesis.generators import loading
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import Plan, agreed_plan, read_plan, write_plan
from syncclip.synthesis.shard import generate_shard
from syncclip.workers.settings import Pool

MakePlan = Callable[..., Plan]


@pytest.fixture
def open_plan(make_plan: MakePlan, pipeline: Path) -> Plan:
    return make_plan(4, generator={"pipeline": str(pipeline), "steps": 1, "batch_size": "auto"})


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_batch_size_is_measured_in_a_ray_task_and_kept_by_the_set(open_plan: Plan, tmp_path: Path) -> None:
    plan = write_plan(tuned(open_plan, locate(open_plan.generator), Pool()), str(tmp_path))
    assert plan.generator.batch_size in (1, 2, 3, 6, 12)
    assert agreed_plan(open_plan, read_plan(str(tmp_path)), str(tmp_path)) == plan


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_mistake_that_shows_in_the_trial_comes_back_as_a_sentence(open_plan: Plan) -> None:
    grounded = GeneratorSettings(pipeline=open_plan.generator.pipeline, scheduler="Eule", batch_size="auto")
    plan = open_plan.model_copy(update={"generator": grounded})
    with pytest.raises(UserError, match="no scheduler 'Eule'"):
        tuned(plan, locate(grounded), Pool())


def test_an_open_plan_is_not_written(open_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="measured before"):
        write_plan(open_plan, str(tmp_path))


def test_a_set_that_exists_answers_what_is_open(make_plan: MakePlan, open_plan: Plan, tmp_path: Path) -> None:
    def with_(**changes: Any) -> Plan:
        return open_plan.model_copy(update={"generator": open_plan.generator.model_copy(update=changes)})

    stored = write_plan(with_(batch_size=3, attention="xformers"), str(tmp_path))
    assert agreed_plan(open_plan, read_plan(str(tmp_path)), str(tmp_path)) == stored
    with pytest.raises(UserError, match="generator.batch_size is 3 there and 5 here"):
        agreed_plan(with_(batch_size=5), stored, str(tmp_path))
    with pytest.raises(UserError, match="generator.attention is 'xformers' there and 'sdpa' here"):
        agreed_plan(with_(attention="sdpa", batch_size=3), stored, str(tmp_path))


def test_a_probe_measures_the_images_bytes_and_rejects_of_the_plan_itself(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(8, filters=[{"name": "blank", "minimum": 110}], attempts=2, threads=1)
    now = iter(range(0, 10_000, 3))  # a clock that ticks 3 seconds at each look
    monkeypatch.setattr(worker.time, "time", lambda: float(next(now)))
    found = measure(plan, str(tmp_path / "probe"))
    size = BATCHES * 4
    part = plan.model_copy(update={"shard_size": size})
    generated = generate_shard(part, 0, Generator(plan.generator), build_filters(plan.filters, plan.classnames))
    assert found.image_bytes == write_shard(str(tmp_path / "same"), 0, generated.samples).bytes / size
    assert found.rejected == sum(generated.rejects.values()) / size > 0
    assert 0 < found.images <= size / 3
    assert found.load == 0.0  # by this clock, both times took as many looks


def test_a_probe_of_another_speed_measures_its_effect_on_the_sets_own_prompts(
    make_plan: Callable[..., Plan], pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    asked: list[Any] = []
    monkeypatch.setattr(autotune, "effect", lambda *given: asked.append(given) or Effect(1.5, 2.0))
    monkeypatch.setattr(loading, "BACKEND", "eager")
    generator = {"pipeline": str(pipeline), "batch_size": 4, "steps": 1}
    plan = make_plan(2, threads=1, generator={**generator, "speed": "fast"})
    assert measure(plan, str(tmp_path / "fast")).effect == Effect(1.5, 2.0)
    torch._dynamo.reset()
    ((settings, device, _, prompts),) = asked
    assert settings.speed == "fast" and device == "cpu" and prompts[0] == plan.entry(0).prompt
    exact = measure(make_plan(2, threads=1, generator=generator), str(tmp_path / "exact"))
    assert exact.effect is None and exact.memory is None and len(asked) == 1


def test_a_plan_smaller_than_the_probe_is_measured_whole(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    found = measure(make_plan(1), str(tmp_path))
    assert found.images > 0 and found.rejected == 0


def test_a_generator_that_cannot_generate_is_told_in_one_sentence(
    make_plan: Callable[..., Plan], pipeline: Path, tmp_path: Path
) -> None:
    generator = {"pipeline": str(pipeline), "batch_size": 4, "scheduler": "NoScheduler"}
    with pytest.raises(UserError, match="the generator failed its trial: .*no scheduler 'NoScheduler'"):
        measure(make_plan(1, generator=generator), str(tmp_path))
