"""Published figures, as they come with the package."""

from __future__ import annotations

import pytest

from syncclip.methods import METHODS
from syncclip.protocols.protocols import AVERAGE, PROTOCOLS, published


def test_harmonic_means_are_those_of_the_published_halves() -> None:
    for figures in published().figures:
        for method, numbers in figures.methods.items():
            harmonic = 2 * numbers["base"] * numbers["novel"] / (numbers["base"] + numbers["novel"])
            assert numbers["hm"] == pytest.approx(harmonic, abs=0.006), method


def test_figures_are_of_methods_protocols_and_metrics_that_there_are() -> None:
    for figures in published().figures:
        assert set(figures.methods) <= set(METHODS)
        assert all(set(numbers) <= set(PROTOCOLS[figures.protocol].metrics) for numbers in figures.methods.values())
        assert figures.source
    for gain in published().gains:
        assert {gain.method, gain.against} <= set(METHODS)
        assert gain.metric in PROTOCOLS[gain.protocol].metrics


def test_what_is_not_known_is_empty() -> None:
    assert published().of("base-to-novel", AVERAGE, "promptsrc") == {"base": 84.26, "novel": 76.1, "hm": 79.97}
    assert published().of("base-to-novel", AVERAGE, "syncclip") == {}
    assert published().of("few-shot", AVERAGE, "promptsrc") == {}
