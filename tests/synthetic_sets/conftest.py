"""Fixtures of the tests of synthesis that these tests use too."""

from __future__ import annotations

from tests.synthesis.conftest import make_plan, pipeline

__all__ = ["make_plan", "pipeline"]
