"""What the benchmark of planning counts is what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.planning import STRATEGIES, lay_markers, plan_of, planned, read


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_image_is_planned(strategy: str) -> None:
    found = planned(strategy, 70, 3)
    assert found.images == 210 and found.file > 0 and found.peak > 2**20


def test_the_mixture_uses_all_its_strategies() -> None:
    plan = plan_of("mixture", 3, 8)
    prompts = plan.prompts_of(range(plan.total))
    assert {"a photo of a class number 0.", "a word 0 class number 0 word 0"} <= set(prompts)
    assert any("seen from very near" in prompt for prompt in prompts)


def test_markers_laid_down_are_read(tmp_path: Path) -> None:
    lay_markers(tmp_path, 5, 7)
    assert read(str(tmp_path))[2] == 35
