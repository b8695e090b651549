"""Prompt-learning methods, one module each: a frozen CLIP and class names in; prompts, scores and losses out.

settings                               hyperparameters and defaults of all methods (`ClipLoraSettings.rank`, ...)
registry                               names of the methods, and their construction
base, adapted                          base classes
prompts, frozen, parallel              learnable prompts, hand-written prompts, distribution of a step's work

`settings` is imported to validate a recipe, so it must not import torch. The names exported here are those that a
custom method needs; they are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncclip.methods.base import Method as Method
    from syncclip.methods.base import TrainingBatch as TrainingBatch
    from syncclip.methods.registry import METHODS as METHODS
    from syncclip.methods.registry import build_method as build_method
    from syncclip.methods.registry import find_method as find_method
    from syncclip.methods.settings import DataUse as DataUse
    from syncclip.methods.settings import MethodSettings as MethodSettings
    from syncclip.methods.settings import Optimisation as Optimisation


_EXPORTS = {
    "settings": ("DataUse", "MethodSettings", "Optimisation"),
    "base": ("Method", "TrainingBatch"),
    "registry": ("METHODS", "build_method", "find_method"),
}


def __getattr__(name: str) -> Any:
    for module, names in _EXPORTS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
