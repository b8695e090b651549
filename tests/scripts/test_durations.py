"""Recorded durations contain neither short tests nor the names of lanes."""

from __future__ import annotations

from scripts.durations import shortened


def test_only_long_tests_are_kept() -> None:
    assert shortened({"b@ray": 2.04, "a": 0.3, "c": 0.29, "d" * 300: 5.0}) == {"a": 0.3, "b": 2.0}
