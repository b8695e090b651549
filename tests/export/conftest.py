"""Fixtures of the inference tests."""

from __future__ import annotations

from tests.inference.conftest import images, train  # noqa: F401
