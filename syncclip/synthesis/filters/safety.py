"""Filter based on a safety checker, from the generator's pipeline or from a separate folder."""

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

REMEDY = "set the filter's `checker`, or remove the filter"


class SafetySettings(Settings):
    """Reject images flagged by a safety checker; thumbnails of rejected images are blurred beyond recognition."""

    name: Literal["safety"] = "safety"
    """Reject images flagged by a safety checker."""
    checker: str | None = None
    """Folder with a Stable Diffusion safety checker and its `preprocessor_config.json`, or a pipeline folder with a
    safety checker; default: the safety checker of the generator's pipeline."""
    checksum: str = ""
    """Checksum of the checker's files, set when the dataset is created."""


class Safety(Filter):
    """Filter configured by `SafetySettings`; the score is 1 for a safe image and 0 for a flagged image."""

    name = "safety"
    blurred = True

    def __init__(self, settings: SafetySettings, device: str = "cpu") -> None:
        self.device = device
        self._checker: tuple[Any, Any] | None = None
        if settings.checker is not None:
            if with_safety_checksum(settings).checksum != settings.checksum:
                raise UserError(
                    f"filter 'safety': {settings.checker} is not the checker that the dataset was created with; "
                    "restore the original checker, or generate into a different folder"
                )
            self._checker = _load(settings.checker, device)

    def score(self, batch: FilterBatch) -> FilterResult:
        keep = [not flag for flag in self._flags(batch)]
        return FilterResult([float(safe) for safe in keep], keep)

    def _flags(self, batch: FilterBatch) -> list[bool]:
        import torch

        if self._checker is None:
            if not all(NSFW in image.info for image in batch.images):
                raise UserError(f"filter 'safety': the pipeline's output has no safety flags; {REMEDY}")
            return [image.info[NSFW] for image in batch.images]
        checker, processor = self._checker
        pixels = processor(list(batch.images), return_tensors="pt").pixel_values.to(self.device)
        blanks = np.zeros((len(batch), 1, 1, 3), np.float32)  # instead of the images, which the checker would blacken
        with torch.inference_mode():
            _, flags = checker(images=blanks, clip_input=pixels)
        return [bool(flag) for flag in flags]


def check_safety(settings: SafetySettings, generator: GeneratorSettings) -> None:
    """Raise a UserError if neither the settings nor a local pipeline's index contains a safety checker."""
    if settings.checker is not None or ":" in (generator.pipeline_class or ""):
        return
    parts = set() if generator.endpoint else parts_of(generator)
    if parts is not None and "safety_checker" not in parts:
        raise UserError(f"filter 'safety': the pipeline {generator.pipeline!r} has no safety checker; {REMEDY}")


def with_safety_checksum(settings: SafetySettings) -> SafetySettings:
    """Return the settings with the checksum of the checker's files."""
    if settings.checker is None:
        return settings
    digest = hashlib.sha256()
    for folder in _folders(settings.checker):
        for file in sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".bin")):
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0{storage.file_sha256(stream)}\0".encode())
    return settings.model_copy(update={"checksum": digest.hexdigest()[:16]})


def _folders(name: str) -> tuple[Path, Path]:
    """Return the folders of the checker and its image processor."""
    path = home_path(name)
    model, processor = path / "safety_checker", path / "feature_extractor"
    if not model.is_dir():
        model = processor = path
    if not (model / "config.json").is_file() or not (processor / "preprocessor_config.json").is_file():
        raise UserError(
            f"filter 'safety': {name} has no safety checker (config.json and preprocessor_config.json); use a folder "
            "with both files, or a pipeline folder with safety_checker and feature_extractor"
        )
    return model, processor


def _load(name: str, device: str) -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    model, processor = _folders(name)
    checker: Any = StableDiffusionSafetyChecker.from_pretrained(model, local_files_only=True)
    return checker.to(device).eval(), CLIPImageProcessor.from_pretrained(processor, local_files_only=True)
