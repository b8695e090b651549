"""Random input ends in a result or a `UserError`: hundreds of cases in `make test`, thousands in `make attack`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.attack.fuzz import FEEDS

CASES = {"plans": 300, "documents": 500, "tables": 300}
"""Number of cases of slow feeds in `make attack`; 1000 for others."""


def feed(name: str, folder: Path, cases: int, number: int | None) -> None:
    call, strategy = FEEDS[name]

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=number is None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        call(data.draw(strategy), folder)

    (attack if number is None else seed(number)(attack))()


@pytest.mark.parametrize("name", FEEDS)
def test_random_input_ends_in_a_result_or_a_user_error(name: str, tmp_path: Path) -> None:
    feed(name, tmp_path, 15 if name in CASES else 50, None)


@pytest.mark.attack
@pytest.mark.parametrize("name", FEEDS)
def test_thousands_of_random_inputs_do_so(name: str, tmp_path: Path) -> None:
    feed(name, tmp_path, CASES.get(name, 1000), int(os.environ.get("FUZZ_SEED", "1")))
