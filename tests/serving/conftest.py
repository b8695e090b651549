"""Fixtures of `tests.inference` for the service."""

from __future__ import annotations

from tests.inference.conftest import images, train  # noqa: F401
