"""The safety checker's answer: the pipeline's own, or that of a checker by path."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from syncclip import storage
from syncclip.core.settings import Settings, UserError
from syncclip.storage.urls import home_path
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult
from syncclip.synthesis.generators.pipeline import NSFW
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import parts_of

REMEDY = "name a checker by synthesis.filters' `checker`, or remove the filter"


class SafetySettings(Settings):
    """Rejects what a safety checker flags. Thumbnails of its rejects are made unrecognisable."""

    name: Literal["safety"] = "safety"
    """Rejects images that a safety checker finds unsafe."""
    checker: str | None = None
    """Folder of a Stable Diffusion safety checker with its `preprocessor_config.json`, or of a pipeline that has
    one; the generating pipeline's own answer where it is not given."""
    digest: str = ""
    """Of the checker's files; filled in when a set is started."""


class Safety(Filter):
    """See `SafetySettings`; the score is 1 for a safe image and 0 for a flagged one."""

    name = "safety"
    blurred = True

    def __init__(self, settings: SafetySettings, device: str = "cpu") -> None:
        self.device = device
        self._checker: tuple[Any, Any] | None = None
        if settings.checker is not None:
            if with_safety_digest(settings).digest != settings.digest:
                raise UserError(f"filter 'safety': {settings.checker} is not the checker that the set was started with")
            self._checker = _load(settings.checker, device)

    def score(self, batch: FilterBatch) -> FilterResult:
        keep = [not flag for flag in self._flags(batch)]
        return FilterResult([float(safe) for safe in keep], keep)

    def _flags(self, batch: FilterBatch) -> list[bool]:
        import torch

        if self._checker is None:
            if not all(NSFW in image.info for image in batch.images):
                raise UserError(f"filter 'safety': the pipeline reports nothing on safety; {REMEDY}")
            return [image.info[NSFW] for image in batch.images]
        checker, processor = self._checker
        pixels = processor(list(batch.images), return_tensors="pt").pixel_values.to(self.device)
        blanks = np.zeros((len(batch), 1, 1, 3), np.float32)  # it blackens what it flags; ours are not to be touched
        with torch.inference_mode():
            _, flags = checker(images=blanks, clip_input=pixels)
        return [bool(flag) for flag in flags]


def check_safety(settings: SafetySettings, generator: GeneratorSettings) -> None:
    """Refuse a filter that asks a pipeline that is known to bring no checker.

    A pipeline that isn't on this machine yet, or of a class of one's own, is refused only once it has generated.

    Raises:
        UserError: says what to name or remove.
    """
    if settings.checker is not None or ":" in (generator.pipeline_class or ""):
        return
    parts = set() if generator.endpoint else parts_of(generator)
    if parts is not None and "safety_checker" not in parts:
        raise UserError(f"filter 'safety': the pipeline {generator.pipeline!r} brings no safety checker; {REMEDY}")


def with_safety_digest(settings: SafetySettings) -> SafetySettings:
    """Note the digest of the checker's files.

    Raises:
        UserError: there is no checker.
    """
    if settings.checker is None:
        return settings
    digest = hashlib.sha256()
    for folder in _folders(settings.checker):
        for file in sorted(one for one in folder.iterdir() if one.suffix in (".json", ".safetensors", ".bin")):
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0{storage.file_sha256(stream)}\0".encode())
    return settings.model_copy(update={"digest": digest.hexdigest()[:16]})


def _folders(place: str) -> tuple[Path, Path]:
    """Folders of the checker and of its image processor."""
    path = home_path(place)
    model, processor = path / "safety_checker", path / "feature_extractor"
    if not model.is_dir():
        model = processor = path
    if not (model / "config.json").is_file() or not (processor / "preprocessor_config.json").is_file():
        raise UserError(
            f"filter 'safety': {place} holds no safety checker (config.json and preprocessor_config.json); give a "
            "folder that has both, or a pipeline's with safety_checker and feature_extractor"
        )
    return model, processor


def _load(place: str, device: str) -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    model, processor = _folders(place)
    checker: Any = StableDiffusionSafetyChecker.from_pretrained(model, local_files_only=True)
    return checker.to(device).eval(), CLIPImageProcessor.from_pretrained(processor, local_files_only=True)
