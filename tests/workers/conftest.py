from __future__ import annotations

from tests.synthesis.conftest import make_plan, pipeline

__all__ = ["make_plan", "pipeline"]
