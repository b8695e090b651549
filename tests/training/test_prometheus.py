"""Gauges of a training at the metrics port of a real Ray."""

from __future__ import annotations

import time

import pytest

from syncclip.training.status import TrainingGauges
from tests.metrics_port import PATIENCE, scraped

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_gauges_can_be_scraped_with_percent_encoded_tags() -> None:
    gauges = TrainingGauges("ivlp-seed1", "/home/josé/日本 50 %")
    gauges(1, 20, {"real": 3.0, "total": 4.0}, 8.0)
    expected = {
        **{"steps_done": 3, "steps_planned": 20, "images_per_second": 24.0},
        **{"loss:real": 1.0, "loss:total": 1.5},
    }
    deadline = time.monotonic() + PATIENCE
    metrics: dict[str, float] = {}
    while not expected.items() <= metrics.items():
        assert time.monotonic() < deadline, metrics
        gauges(3, 20, {"real": 1.0, "total": 1.5}, 24.0)
        time.sleep(0.5)
        url = "/home/jos%C3%A9/%E6%97%A5%E6%9C%AC 50 %"
        metrics = scraped("ray_syncclip_training_", "term", url=url, run="ivlp-seed1")
