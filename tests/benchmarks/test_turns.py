"""Sides that take turns: who has none stands still, and nothing of them is left."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.turns import Side, compare

FORK = multiprocessing.get_context("fork")


def ticks(pace: float) -> Iterator[int]:
    """One in that many seconds."""
    while True:
        time.sleep(pace)
        yield 1


def of_a_child(folder: Path) -> Iterator[int]:
    """What a process has written that this one has started."""
    FORK.Process(target=_write, args=(folder / "ticks",), daemon=True).start()
    told = 0
    while True:
        time.sleep(0.01)
        found = (folder / "ticks").stat().st_size if (folder / "ticks").exists() else 0
        yield found - told
        told = found


def _write(file: Path) -> None:
    while True:
        with file.open("ab") as out:
            out.write(b"x")
        time.sleep(0.005)


def broken() -> Iterator[int]:
    yield 1


def test_a_side_stands_still_with_all_that_it_started_unless_it_is_its_turn(tmp_path: Path) -> None:
    side = Side(partial(of_a_child, tmp_path))
    try:
        side.ready(3)
        before = (tmp_path / "ticks").stat().st_size
        time.sleep(0.3)
        assert (tmp_path / "ticks").stat().st_size <= before + 1  # one may have been on its way
        assert any(side.turn(0.2) > 0 for _ in range(50))  # on a busy machine a turn may pass before it is scheduled
        assert (tmp_path / "ticks").stat().st_size > before + 1
    finally:
        side.end()
    after = (tmp_path / "ticks").stat().st_size
    time.sleep(0.1)
    assert (tmp_path / "ticks").stat().st_size == after


def test_a_side_of_twice_the_pace_has_about_twice_the_rate() -> None:
    lines: list[str] = []
    runs = {"slow": partial(ticks, 0.04), "fast": partial(ticks, 0.02)}
    found = compare(runs, starts=2, turns=2, seconds=0.5, warm=1, tell=lines.append)
    assert [len(found[name].starts) for name in runs] == [2, 2]
    assert found["slow"].mean < found["fast"].mean
    assert [line.split(":")[0] for line in lines] == ["start 1", "start 2"]


def test_a_side_that_ends_is_told() -> None:
    with pytest.raises(RuntimeError, match="a side ended before its first turn"):
        compare({"broken": broken}, starts=1, turns=1, seconds=0.1, warm=2, tell=print)
