"""Which tests share a process where several run side by side (`pytest -n 4`), and which of them begin first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from xdist.scheduler import LoadGroupScheduling

LANES = ("hosts", "heads", "ray", "browser")
"""Groups of tests that mostly wait, the longest first: each is the work of one process from the beginning, while others
compute. Tests of a lane never run beside each other, and no more lanes of Ray than these bear each other on two cores.

hosts: clusters on hosts of this machine, and new users', in namespaces; heads: clusters of Ray that jobs are submitted
to, or that gain and lose nodes; ray: local Rays, of which most tests share one (`ray_cluster`); browser: the one
Chromium. A test names its lane by `pytest.mark.xdist_group`, and is in that of its marker `ray` or `browser`
otherwise.
"""


class LanesAndFiles(LoadGroupScheduling):
    """Keeps the tests of a lane in one process, and else those of a file, which share its fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        return scope.partition("::")[0]


def lane(item: pytest.Item) -> str | None:
    """The lane of a test, if it has one."""
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0]) if mark is not None else None


def assign(items: Sequence[pytest.Item]) -> None:
    """Give tests marked `ray` or `browser` the lane of this name, unless they name another one."""
    for item in items:
        for name in ("ray", "browser"):
            if item.get_closest_marker(name) is not None and lane(item) is None:
                item.add_marker(pytest.mark.xdist_group(name))


def sort(items: list[pytest.Item]) -> None:
    """Put first what takes longest, lest one process be left alone with it at the end: lanes, slow and long files."""
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if lane(item) is None and item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: (_place(item), item.path not in slow, -tests[item.path], item.path))


def _place(item: pytest.Item) -> int:
    name = lane(item)
    return LANES.index(name) if name is not None else len(LANES)
