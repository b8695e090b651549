"""Planted mistakes, a module for each method: functions of a `patch`, which the parity checks must notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import pytest

from syncclip.methods.base import Method

Plant = Callable[[pytest.MonkeyPatch], None]


def plants_of(module: ModuleType) -> list[Plant]:
    """The planted mistakes of a module, in order."""
    functions = [each for each in vars(module).values() if isinstance(each, FunctionType)]
    own = [each for each in functions if each.__module__ == module.__name__ and each.__name__ != "check"]
    return [each for each in own if [*each.__annotations__] == ["patch", "return"]]


def weigh(
    patch: pytest.MonkeyPatch, method: type[Method], change: Callable[[Mapping[str, float]], dict[str, float]]
) -> None:
    """Change the weights of a method's loss terms."""
    right = method.__init__

    def wrong(built: Method, *arguments: Any, **named: Any) -> None:
        right(built, *arguments, **named)
        built.weights = change(built.weights)

    patch.setattr(method, "__init__", wrong)


def asking(settings: type[Any], **changes: object) -> Plant:
    """A different optimiser from the authors'."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = settings.optimisation.fget
        patch.setattr(settings, "optimisation", property(lambda s: right(s)._replace(**changes)))

    plant.__name__ = "_".join(["asking", *changes])
    return plant
