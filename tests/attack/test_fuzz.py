"""No input ends in anything but a result or one sentence: some hundred cases here, some thousand by `make attack`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.attack.fuzz import FEEDS

CASES = {"plans": 300, "documents": 500, "tables": 300}
"""Of the slower feeds, by `make attack`; of the others a thousand."""


def feed(name: str, folder: Path, cases: int, chosen: int | None) -> None:
    call, nonsense = FEEDS[name]

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=chosen is None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        call(data.draw(nonsense), folder)

    (attack if chosen is None else seed(chosen)(attack))()


@pytest.mark.parametrize("name", FEEDS)
def test_nonsense_ends_in_a_result_or_in_one_sentence(name: str, tmp_path: Path) -> None:
    feed(name, tmp_path, 15 if name in CASES else 50, None)


@pytest.mark.attack
@pytest.mark.parametrize("name", FEEDS)
def test_thousands_of_pieces_of_nonsense_end_in_a_result_or_in_one_sentence(name: str, tmp_path: Path) -> None:
    feed(name, tmp_path, CASES.get(name, 1000), int(os.environ.get("FUZZ_SEED", "1")))
