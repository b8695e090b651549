"""The probe generates the plan itself, with its generator and filters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.shards.writer import write_shard
from syncclip.synthesis import worker
from syncclip.synthesis.filters import build_filters
from syncclip.synthesis.generators import Generator
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.tuning import BATCHES, measure
from syncclip.synthesis.worker import generate_shard


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


def test_a_plan_smaller_than_the_probe_is_measured_whole(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    found = measure(make_plan(1), str(tmp_path))
    assert found.images > 0 and found.rejected == 0


def test_a_generator_that_cannot_generate_is_told_in_one_sentence(
    make_plan: Callable[..., Plan], pipeline: Path, tmp_path: Path
) -> None:
    generator = {"pipeline": str(pipeline), "batch_size": 4, "scheduler": "NoScheduler"}
    with pytest.raises(UserError, match="the generator could not be tried: .*no scheduler 'NoScheduler'"):
        measure(make_plan(1, generator=generator), str(tmp_path))
