"""The service under stalled, dripping, oversized and expensive requests, three times for a minute."""

from __future__ import annotations

import os
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
@pytest.mark.alone
@pytest.mark.ray
@pytest.mark.slow
def test_an_honest_client_is_served_while_others_attack(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny.recipe, ["training.method=zeroshot", "training.data=real"])
    quiet, attack = attacked(jobs.run_here(recipe, str(tmp_path / "run")).url, SECONDS)
    print(quiet.p95, attack.p95, attack.health_longest, attack.responses)
    assert attack.failed == 0
    assert attack.p95 <= 3 * quiet.p95
    assert attack.health_longest <= 1.0
    assert attack.memory_peak <= attack.memory_before + 4 * MAX_BUFFERED_BYTES
    kinds = attack.responses.keys()
    assert {"scans 400"} <= kinds and kinds & {"large 413", "large 503"}
    assert not [kind for kind in kinds if kind.endswith(" 200")]
