"""What several planted mistakes are made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from syncclip.methods.base import Method


def weigh(
    patch: pytest.MonkeyPatch, method: type[Method], change: Callable[[Mapping[str, float]], dict[str, float]]
) -> None:
    """Weight the terms of a method's loss otherwise."""
    right = method.__init__

    def wrong(made: Method, *arguments: Any, **named: Any) -> None:
        right(made, *arguments, **named)
        made.weights = change(made.weights)

    patch.setattr(method, "__init__", wrong)
