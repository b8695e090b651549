"""Published figures, each with its source, from `published.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources

import yaml

from syncclip.settings import Settings

AVERAGE = "average"


class Figures(Settings):
    """What one source tells of several methods: method -> metric -> per cent."""

    protocol: str
    over: str
    setting: str
    source: str
    methods: dict[str, dict[str, float]]


class Gain(Settings):
    """What one source tells of the difference of two methods, in points."""

    protocol: str
    over: str
    method: str
    against: str
    metric: str
    points: float
    source: str


class Published(Settings):
    """All that is known."""

    figures: list[Figures]
    gains: list[Gain]

    def of(self, protocol: str, over: str, method: str) -> dict[str, float]:
        """Metric -> per cent of a method, trained as its authors did; empty where nothing is known."""
        found: dict[str, float] = {}
        for one in self.figures:
            if (one.protocol, one.over) == (protocol, over):
                found |= one.methods.get(method, {})
        return found

    def sources(self, protocol: str) -> Sequence[str]:
        """Where the figures of a protocol come from."""
        told = [f"{one.source}; {one.setting}" for one in self.figures if one.protocol == protocol]
        return [*told, *(one.source for one in self.gains if one.protocol == protocol)]


@cache
def published() -> Published:
    """The figures that come with the package."""
    text = resources.files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
