"""Lanes of `pytest -n 4`: tests that run one after another in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from xdist.scheduler import LoadGroupScheduling

LANES = ("hosts", "heads", "ray", "browser")
"""Groups of tests that mostly wait, the longest first. Each starts at once in a process of its own.

hosts: clusters on hosts in namespaces; heads: Ray clusters with jobs, or with nodes that join and leave; ray: local
Ray, usually shared (`ray_cluster`); browser: the shared Chromium. A test selects its lane by `pytest.mark.xdist_group`;
the default is that of its marker `ray` or `browser`.
"""


class LanesAndFiles(LoadGroupScheduling):
    """Runs the tests of a lane in one process, and other tests of a file, which share its fixtures, in one process."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        return scope.partition("::")[0]


def lane(item: pytest.Item) -> str | None:
    """The lane of a test, or None."""
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0]) if mark is not None else None


def assign(items: Sequence[pytest.Item]) -> None:
    """Assign tests marked `ray` or `browser` to the lane of this name unless they have another one."""
    for item in items:
        for name in ("ray", "browser"):
            if item.get_closest_marker(name) is not None and lane(item) is None:
                item.add_marker(pytest.mark.xdist_group(name))


def sort(items: list[pytest.Item]) -> None:
    """Sort by expected duration, longest first: lanes, then files with slow tests or many tests."""
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if lane(item) is None and item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: (_rank(item), item.path not in slow, -tests[item.path], item.path))


def _rank(item: pytest.Item) -> int:
    name = lane(item)
    return LANES.index(name) if name is not None else len(LANES)
