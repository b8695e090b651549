from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.training.metrics_file import MetricsFile, last_line


def test_lines_after_the_step_are_dropped_on_resuming(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    first = MetricsFile(path, 0)
    for step in (1, 2, 3):
        first.write(step=step, total=0.5 * step)
    first.close()
    second = MetricsFile(path, 2)
    second.write(step=3, total=9.0)
    second.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1, "total": 0.5}', '{"step": 2, "total": 1.0}', '{"step": 3, "total": 9.0}']


def test_a_run_from_the_start_leaves_nothing_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsFile(str(path), 0).close()
    assert path.read_bytes() == b""


def test_elsewhere_the_file_is_replaced_at_every_sync() -> None:
    url = "memory://metrics-test/metrics.jsonl"
    metrics = MetricsFile(url, 0)
    metrics.write(step=1, total=1.0)
    assert last_line(url) is None
    metrics.sync()
    assert last_line(url) == {"step": 1, "total": 1.0}
    metrics.close()


def test_a_loss_that_is_no_number_never_gets_into_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        MetricsFile(str(tmp_path / "metrics.jsonl"), 0).write(step=1, total=float("nan"))
