"""Where there is no Chromium, tests of the page in a browser are deselected, which pytest counts and says."""

from __future__ import annotations

import pytest

from tests.study.browser import CHROMIUM


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked `browser` on a machine that has none."""
    if CHROMIUM is None:
        kept = [item for item in items if item.get_closest_marker("browser") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
