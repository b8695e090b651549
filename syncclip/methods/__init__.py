"""Methods of prompt learning, one file each: from a frozen CLIP and class names to prompts, scores and losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import Field, ValidationError

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import Settings, UserError, explain
from syncclip.core.text import did_you_mean
from syncclip.core.trust import module_of
from syncclip.methods.base import DataUse, Method, MethodSettings, TrainingBatch
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.coop import CoOp
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.maple import Maple
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.vpt import Vpt
from syncclip.methods.zeroshot import ZeroShot

__all__ = [
    "METHODS",
    "DataUse",
    "Method",
    "MethodSettings",
    "MethodsSettings",
    "TrainingBatch",
    "build_method",
    "find_method",
]

METHODS: dict[str, type[Method]] = {
    "zeroshot": ZeroShot,
    "coop": CoOp,
    "cocoop": CoCoOp,
    "kgcoop": KgCoOp,
    "vpt": Vpt,
    "ivlp": Ivlp,
    "maple": Maple,
    "promptsrc": PromptSrc,
    "syncclip": SyncClip,
}


class MethodsSettings(Settings):
    """Section `methods` of a recipe: the settings of every method, so that a study has those chosen for each."""

    zeroshot: ZeroShot.Settings = ZeroShot.Settings()
    """The frozen CLIP with hand-written sentences."""
    coop: CoOp.Settings = CoOp.Settings()
    """Learned words around the class name (arXiv 2109.01134)."""
    cocoop: CoCoOp.Settings = CoCoOp.Settings()
    """CoOp whose words each image shifts (arXiv 2203.05557)."""
    kgcoop: KgCoOp.Settings = KgCoOp.Settings()
    """CoOp kept near the hand-written sentences (arXiv 2303.13283)."""
    vpt: Vpt.Settings = Vpt.Settings()
    """Learned tokens among the patches (arXiv 2203.12119)."""
    ivlp: Ivlp.Settings = Ivlp.Settings()
    """Learned tokens in both towers, independent of each other (arXiv 2210.03117)."""
    maple: Maple.Settings = Maple.Settings()
    """Visual tokens that are projections of text tokens (arXiv 2210.03117)."""
    promptsrc: PromptSrc.Settings = PromptSrc.Settings()
    """IVLP kept near the frozen CLIP and averaged over epochs (arXiv 2307.06948)."""
    syncclip: SyncClip.Settings = SyncClip.Settings()
    """IVLP with visual tokens of each domain, whose features are aligned (arXiv 2312.03805)."""
    own: dict[str, Any] = Field(default={})
    """Of a method outside the package, named by `training.method: package.module:Class`."""

    def of(self, name: str) -> MethodSettings:
        """The settings of a method by name.

        Raises:
            UserError: there is no such method, or `own` is invalid for it.
        """
        if name in METHODS:
            settings: MethodSettings = getattr(self, name)
            return settings
        method = find_method(name)
        try:
            return method.Settings.model_validate(self.own)
        except ValidationError as error:
            key, reason = explain(error, method.Settings)
            raise UserError(f"{'.'.join(filter(None, ('methods.own', key)))}: {reason} ({method.__name__})") from error


class ClassList(Protocol):
    """What a method needs to know of a dataset."""

    @property
    def classnames(self) -> Sequence[str]: ...

    @property
    def template(self) -> str: ...

    @property
    def base(self) -> Sequence[int]: ...


def find_method(name: str) -> type[Method]:
    """The class of a method, by its name here or as "package.module:Class"; modules are also found in the working
    folder.

    Raises:
        UserError: the name is unknown or not trusted (see `core.trust`), or there is no such module or class, or it is
            not a `Method`.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise UserError(f"there is no method {name!r}; {did_you_mean(name, METHODS)}")
    try:
        found = getattr(module_of(name), name.partition(":")[2])
    except UserError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"no method {name!r} ({error}); give package.module:Class as it is imported from {Path.cwd()}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"{name} is not a method; derive it from syncclip.methods.Method")
    return found


def build_method(
    name: str,
    clip: PromptedClip,
    dataset: ClassList,
    settings: MethodSettings | None = None,
    seed: int | None = None,
) -> Method:
    """A method with fresh prompts for the classes of a dataset.

    Args:
        settings: of the method's type; None: its defaults.
        seed: of the prompts' random start; None: torch's global generator is used in its current state.

    Raises:
        UserError: unknown name, a tower that cannot take prompts, or settings with more blocks or tokens than this
            CLIP has.
    """
    method = find_method(name)
    settings = settings or method.Settings()
    assert isinstance(settings, method.Settings), (name, type(settings))
    assert list(dataset.base) == list(range(len(dataset.base))), "base classes come first"
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return method(clip, dataset.classnames, len(dataset.base), dataset.template, settings)
