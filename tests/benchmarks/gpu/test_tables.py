"""GPU results as Markdown tables."""

from __future__ import annotations

import pytest

from benchmarks.gpu.tables import tables

pytestmark = pytest.mark.nightly

RESULTS = {
    "device": "NVIDIA Device",
    "memory_gb": 80.0,
    "date": "2026-01-01",
    "python": "3.11.7",
    "versions": {"torch": "2.9"},
    "price": 2.0,
    "parts": {
        "sdxl": [
            {"what": "plain", "batch": 8, "steps": 30, "side": 1024, "first_s": 9.0, "peak_gb": 20.1, "images_s": 1.0},
            {"what": "fast", "batch": 8, "steps": 30, "side": 1024, "first_s": 41.0, "peak_gb": 19.0, "images_s": 2.5},
            {"what": "max", "left_out": "time limit of 120 s"},
        ],
        "set": [
            {"what": "synth", "batch": 32, "steps": 25, "side": 512, "images_s": 7.0, "busy": 0.98, "computed": 0.97}
        ],
        "training": [{"what": "ours", "batch": 8, "classes": 100, "seconds": 0.0123, "peak_gb": 1.5}],
        "flux": [{"what": "plain", "left_out": "exit status 1"}],
    },
}


def test_each_part_has_a_table_and_a_list_of_skipped_rows() -> None:
    text = tables(RESULTS, {"sdxl", "flux"})
    assert text.startswith("# NVIDIA Device, 80.0 GB\n\n2026-01-01; Python 3.11.7, torch 2.9\n")
    assert "| fast | 8 | 30 | 1024 | 2.50 | 2.50 | 19.0 | 41.0 |  |  | 4,500 |" in text
    assert "* max: skipped, time limit of 120 s" in text
    assert "| synth | 32 | 25 | 512 | 7.00 | 1.00 |  |  | 0.98 | 0.97 |\n" in text
    assert "| ours | 8 | 100 | 12.3 | 1.50 |" in text
    assert text.endswith("## flux\n\n\n* plain: skipped, exit status 1\n")
