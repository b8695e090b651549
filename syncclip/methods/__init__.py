"""Methods of prompt learning, one file each: from a frozen CLIP and class names to prompts, scores and losses.

The names below are what a method of one's own needs; they are imported at first use, since a recipe is read without
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncclip.methods.base import Method, TrainingBatch
    from syncclip.methods.registry import METHODS, build_method, find_method
    from syncclip.methods.settings import DataUse, MethodSettings, Optimisation

__all__ = [
    "METHODS",
    "DataUse",
    "Method",
    "MethodSettings",
    "Optimisation",
    "TrainingBatch",
    "build_method",
    "find_method",
]

_HOMES = {
    "METHODS": "registry",
    "DataUse": "settings",
    "Method": "base",
    "MethodSettings": "settings",
    "Optimisation": "settings",
    "TrainingBatch": "base",
    "build_method": "registry",
    "find_method": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
