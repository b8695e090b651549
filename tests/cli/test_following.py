"""A job's log and its end, of clusters that break off; `tests/cluster/test_jobs.py` follows jobs of a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from syncclip.cli import following
from syncclip.core.settings import UserError


@pytest.mark.parametrize(
    ("log", "message", "told"),
    [
        ("synth: 3 of 9\nsyncclip: no space left\nsome Ray noise\n", "Job failed", "no space left"),
        ("Traceback\n  ...\nRuntimeError: odd\n\n", "Job failed", "RuntimeError: odd"),
        ("", "Failed to set up\nthe environment", "Failed to set up the environment"),
        ("", "", "the cluster tells no reason"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(log: str, message: str, told: str) -> None:
    assert following.reason(log, message) == told


@pytest.mark.parametrize(
    ("state", "code", "status"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", None, 130)]
)
def test_the_exit_status_is_that_of_the_job(state: str, code: int | None, status: int) -> None:
    info = SimpleNamespace(status=state, driver_exit_code=code, message="")
    client = SimpleNamespace(get_job_info=lambda _: info, get_job_logs=lambda _: "")

    assert following.outcome(client, "job").status == status


class Following:
    """A cluster that tells a job's log in so many connections, each from the first line on and cut off somewhere.

    Args:
        cuts: where each connection ends, in characters; negative ones end with an error.
    """

    log = "synth: 3 of 9\nsynth: 9 of 9\n"

    def __init__(self, *cuts: int) -> None:
        self.cuts = list(cuts)

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        cut = self.cuts.pop(0) if self.cuts else -1
        told = self.log[: abs(cut)]
        for start in range(0, len(told), 4):
            yield told[start : start + 4]
        if cut < 0:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_status(self, _: str) -> Any:
        return SimpleNamespace(is_terminal=lambda: not self.cuts)

    def get_job_info(self, _: str) -> Any:
        return SimpleNamespace(status="SUCCEEDED")


@pytest.mark.parametrize("cuts", [(29,), (9, 29), (-9, -17, 29), (0, 29, 29)])
def test_a_log_that_breaks_off_goes_on_where_it_was(cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RECONNECTION_PAUSE", 0.0)
    told: list[str] = []

    assert following.follow(Following(*cuts), "job", told.append).status == 0
    assert "".join(told) == Following.log


def test_a_cluster_that_is_gone_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RECONNECTION_PAUSE", 0.0)

    with pytest.raises(UserError, match=r"doesn't answer any more \(WebSocket.* job syncclip-synth-a goes on"):
        following.follow(Following(-9), "syncclip-synth-a", lambda _: None)
