"""Selectors of Ray nodes by their labels."""

from __future__ import annotations

import pytest

from syncclip.core.labels import matches, terms

SPOT = {"ray.io/market-type": "spot", "gpu": "t4"}


@pytest.mark.parametrize(
    ("labels", "selector", "expected"),
    [
        (SPOT, {}, True),
        (SPOT, {"ray.io/market-type": "spot"}, True),
        (SPOT, {"ray.io/market-type": "spot", "gpu": "a100"}, False),
        (SPOT, {"ray.io/market-type": "!spot"}, False),
        ({}, {"ray.io/market-type": "!spot"}, True),
        ({}, {"ray.io/market-type": "spot"}, False),
    ],
)
def test_a_node_matches_if_all_terms_match(labels: dict[str, str], selector: dict[str, str], expected: bool) -> None:
    assert matches(labels, selector) == expected


def test_terms_are_formatted_for_messages() -> None:
    assert terms({"ray.io/market-type": "spot", "gpu": "!t4"}) == "ray.io/market-type=spot, gpu!=t4"
