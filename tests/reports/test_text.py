"""How the report writes numbers."""

from __future__ import annotations

import pytest

from syncclip.reports.text import signed


@pytest.mark.parametrize(("value", "said"), [(1.04, "+1.0"), (-0.26, "−0.3"), (-0.04, "0.0"), (0.0, "0.0")])
def test_differences_carry_their_sign_unless_they_round_to_nothing(value: float, said: str) -> None:
    assert signed(value) == said
