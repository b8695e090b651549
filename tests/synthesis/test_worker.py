from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip.synthesis.plan import Plan, read_plan, write_plan
from syncclip.synthesis.worker import ShardWorker
from tests.synthesis.generators.conftest import eager_backend  # noqa: F401


@pytest.mark.usefixtures("eager_backend")
def test_a_resumed_fast_dataset_has_the_same_bytes(
    make_plan: Callable[..., Plan], pipeline: Path, tmp_path: Path
) -> None:
    generator = {"pipeline": str(pipeline), "batch_size": 4, "steps": 1}
    exact, fast = (make_plan(2, threads=1, generator={**generator, "speed": speed}) for speed in ("exact", "fast"))
    write_plan(fast, str(tmp_path))
    resumed = read_plan(str(tmp_path))
    assert resumed is not None
    images = []
    for plan in (fast, resumed, exact):
        worker = ShardWorker(plan.model_dump_json(), str(tmp_path), "cpu", str(pipeline))
        computation = worker.begin(0)
        assert computation.finish is not None, computation.report.error
        images.append([sample.image_bytes for sample in computation.finish().samples])
        report = worker.commit(worker.begin(0))
        assert 0 < report.computed <= report.generate
    assert images[0] == images[1] != images[2]
