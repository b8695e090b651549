"""Registry of methods by name, and construction of methods for a dataset's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method
from syncclip.methods.classmeans import ClassMeans
from syncclip.methods.cliplora import ClipLora
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.coop import CoOp
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.maple import Maple
from syncclip.methods.mma import Mma
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.probe import Probe
from syncclip.methods.promptkd import PromptKd
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.settings import MethodSettings, custom_method
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.tcp import Tcp
from syncclip.methods.tip import Tip
from syncclip.methods.twostage import TwoStage
from syncclip.methods.vpt import Vpt
from syncclip.methods.zeroshot import ZeroShot

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
    "probe": Probe,
    "tip": Tip,
    "classmeans": ClassMeans,
    "cliplora": ClipLora,
    "twostage": TwoStage,
    "mma": Mma,
    "mmrl": Mmrl,
    "tcp": Tcp,
    "promptkd": PromptKd,
}


class ClassList(Protocol):
    """Dataset attributes required by methods."""

    @property
    def classnames(self) -> Sequence[str]: ...

    @property
    def template(self) -> str: ...

    @property
    def base(self) -> Sequence[int]: ...


def find_method(name: str) -> type[Method]:
    """Return the method class for a name in `METHODS` or a custom "package.module:Class".

    Raises:
        UserError: see `settings.custom_method`.
    """
    return METHODS[name] if name in METHODS else custom_method(name)


def build_method(
    name: str,
    clip: PromptedClip,
    dataset: ClassList,
    settings: MethodSettings | None = None,
    seed: int | None = None,
) -> Method:
    """Build a method with newly initialised prompts for a dataset's classes.

    Args:
        settings: method settings, by default `Settings()` of the method's class.
        seed: seed for the random initialisation; by default, torch's global generator is not reseeded.

    Raises:
        UserError: the name is unknown, a tower does not support prompts, or the settings require more blocks or tokens
            than the CLIP model has.
    """
    method = find_method(name)
    settings = settings or method.Settings()
    assert isinstance(settings, method.Settings), (name, type(settings))
    assert list(dataset.base) == list(range(len(dataset.base))), "base classes come first"
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return method(clip, dataset.classnames, len(dataset.base), dataset.template, settings)
