"""The service under stalled, dripping, oversized and expensive requests, three times for a minute."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from syncclip.serving.app import MAX_BUFFERED_BYTES
from tests.attack.service import attacked
from tests.conftest import TinyWorld

SECONDS = float(os.environ.get("SYNCCLIP_ATTACK_SECONDS", "60"))
"""Length of each of the three attacks; set the variable to 200 for the long test."""


@pytest.mark.attack
@pytest.mark.ray
@pytest.mark.slow
def test_an_honest_client_is_served_while_others_attack(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny.recipe, ["training.method=zeroshot", "training.data=real"])
    result = attacked(jobs.run_here(recipe, str(tmp_path / "run")).url, SECONDS)
    print(asdict(result), result.slowdown)
    assert result.works_afterwards and result.failed == 0
    assert result.slowdown <= 3
    assert result.health_longest <= 1.0
    assert result.memory_peak <= result.memory_quiet + 4 * MAX_BUFFERED_BYTES
    answers = result.attackers
    assert {"scans 400"} <= answers.keys() and answers.keys() & {"large 413", "large 503"}
    assert not [kind for kind in answers if kind.endswith(" 200")]
