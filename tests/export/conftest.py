"""Fixtures of `tests.inference` for exports."""

from __future__ import annotations

from tests.inference.conftest import images, train  # noqa: F401
