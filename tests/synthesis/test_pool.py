"""What the pool of actors on a real Ray promises."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from syncclip.synthesis.drawing import Report
from syncclip.synthesis.graph import synthesise_set
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.pool import MAX_STARTS, draw_round
from tests.synthesis.conftest import digests

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


class DeadlyShard:
    """Makes nothing; its process dies at shard 3, and shard 5 comes back as an error."""

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if row["shard"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return Report(row["shard"], error="OSError: reset" if row["shard"] == 5 else "")._asdict()


@pytest.mark.fault
def test_a_shard_that_kills_its_process_is_given_up_by_name_and_all_others_come_back() -> None:
    reports = list(draw_round(range(8), DeadlyShard, actors=1, threads=1, num_gpus=0))
    assert sorted(report.shard for report in reports) == list(range(8))
    errors = {report.shard: report.error for report in reports if report.error}
    assert errors == {
        3: f"the process that drew it died {MAX_STARTS} times (out of memory, or killed)",
        5: "OSError: reset",
    }


def test_one_actor_and_two_actors_draw_the_same_bytes(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan(7, shard_size=5, filters=[{"name": "blank", "minimum": 100}], attempts=2)
    summaries = [synthesise_set(plan, str(tmp_path / str(n)), actors=n, show=False) for n in (1, 2)]
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    assert len(digests(tmp_path / "1")) == 2 * 5 + 1
    assert summaries[0].rejects == summaries[1].rejects
