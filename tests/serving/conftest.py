"""Fixtures shared with `tests.inference`."""

from __future__ import annotations

from tests.inference.conftest import images, train  # noqa: F401
