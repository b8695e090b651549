"""Prompt-learning methods, one module each. A method learns prompts for class names on top of a frozen CLIP model.

settings                               hyperparameters and defaults of all methods (`ClipLoraSettings.rank`, ...)
registry                               names and construction of the methods
base, adapted                          base classes
prompts, class_vectors                 learnable prompts and class vectors
frozen, parallel                       hand-written prompts, parallel encoding

`settings` must not import torch, since recipes are validated without torch. This package exports the names required by
custom methods and imports them lazily.
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
