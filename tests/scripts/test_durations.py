"""Recorded durations contain neither short tests nor the names of lanes."""

from __future__ import annotations

from scripts.durations import shortened


def test_only_long_tests_are_kept() -> None:
    assert shortened({"b@ray": 2.04, "a": 0.2, "c": 0.19, "d" * 300: 5.0}) == {"a": 0.2, "b": 2.0}
