"""An actor's work on a row: what it reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from syncclip.synthesis.generators import loading
from syncclip.synthesis.plan import Plan, read_plan, write_plan
from syncclip.synthesis.worker import ShardWorker


def test_an_actor_that_resumes_a_fast_set_generates_the_same_bytes(
    make_plan: Callable[..., Plan], pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BACKEND", "eager")
    generator = {"pipeline": str(pipeline), "batch_size": 4, "steps": 1}
    exact, fast = (make_plan(2, threads=1, generator={**generator, "speed": speed}) for speed in ("exact", "fast"))
    write_plan(fast, str(tmp_path))
    resumed = read_plan(str(tmp_path))
    assert resumed is not None
    made = []
    for plan in (fast, resumed, exact):
        begun = ShardWorker(plan.model_dump_json(), str(tmp_path), "cpu", str(pipeline)).begin(0)
        assert begun.finish is not None, begun.report.error
        made.append([sample.image_bytes for sample in begun.finish().samples])
    torch._dynamo.reset()
    assert made[0] == made[1] != made[2]


def test_what_the_processor_did_is_no_more_than_the_time_that_generating_took(
    make_plan: Callable[..., Plan], pipeline: Path, tmp_path: Path
) -> None:
    plan = make_plan(2, threads=1, generator={"pipeline": str(pipeline), "batch_size": 4, "steps": 2})
    worker = ShardWorker(plan.model_dump_json(), str(tmp_path), "cpu", str(pipeline))
    report = worker.commit(worker.begin(0))
    assert 0 < report.computed <= report.generate
