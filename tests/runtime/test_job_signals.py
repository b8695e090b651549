"""Stop requests and permanent failures that a driver and its workers share through an actor."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from syncclip.runtime import job_signals as module
from syncclip.runtime import shutdown
from syncclip.runtime.job_signals import job_signals, observing_stop, record_failure, recorded_failure, stop_requested


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_observes_the_stop_and_the_failure_of_its_job() -> None:
    import ray

    with job_signals() as signals:
        assert not stop_requested(signals) and recorded_failure(signals) is None
        record_failure(signals, "no such loss")
        assert recorded_failure(signals) == "no such loss"
        ray.get(signals.stop.remote())
        assert stop_requested(signals)


def test_work_stops_after_a_request_and_the_process_can_serve_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_INTERVAL", 0.01)
    monkeypatch.setattr(module, "stop_requested", lambda _: True)
    with observing_stop(object()):
        while not shutdown.requested():
            time.sleep(0.01)
    assert not shutdown.requested()


def test_a_lost_actor_requests_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise ConnectionError("the head node is lost")

    monkeypatch.setattr("ray.get", lost)
    assert not stop_requested(SimpleNamespace(is_stopped=SimpleNamespace(remote=lambda: None)))
