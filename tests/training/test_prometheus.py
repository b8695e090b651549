"""The gauges of a training arrive where Prometheus asks for them: at the metrics port of a real Ray."""

from __future__ import annotations

import time

import pytest

from syncclip.training.status import TrainingGauges
from tests.metrics_port import PATIENCE, scraped

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.mark.parametrize(
    ("url", "tag"),
    [("s3://bucket/run", "s3://bucket/run"), ("/home/josé/日本 50 %", "/home/jos%C3%A9/%E6%97%A5%E6%9C%AC 50 %")],
)
def test_steps_losses_and_speed_of_a_run_can_be_scraped(url: str, tag: str) -> None:
    gauges = TrainingGauges("ivlp-seed1", url)
    gauges(1, 20, {"real": 3.0, "total": 4.0}, 8.0)
    expected = {
        **{"steps_done": 3, "steps_planned": 20, "images_per_second": 24.0},
        **{"loss:real": 1.0, "loss:total": 1.5},
    }
    deadline = time.monotonic() + PATIENCE
    found: dict[str, float] = {}
    while not expected.items() <= found.items():
        assert time.monotonic() < deadline, found
        gauges(3, 20, {"real": 1.0, "total": 1.5}, 24.0)
        time.sleep(0.5)
        found = scraped("ray_syncclip_training_", "term", url=tag, run="ivlp-seed1")
