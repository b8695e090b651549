"""Call arguments for pipeline families; unsupported settings raise errors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from syncclip.core.settings import UserError
from syncclip.synthesis.generators.settings import GeneratorSettings

INPUT_PARAMETERS = ("image", "mask_image", "control_image", "video", "num_frames")
"""Call parameters that occur only in pipelines for image editing or video generation."""

MIN_BINNED_SIDE = 16
"""Minimum side length of the latents for resolution binning (PixArt, Sana)."""


def call_arguments(pipeline: Any, settings: GeneratorSettings, guided: bool = False) -> dict[str, Any]:
    """Return the arguments common to all calls of a pipeline or, with `guided`, of its image-to-image pipeline.

    Raise a UserError if the pipeline is not text-to-image or doesn't support a setting.
    """
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(type(pipeline).__call__).parameters
    if not guided:
        _check_task(pipeline, settings, parameters)
    _check_size(pipeline, settings)
    arguments: dict[str, Any] = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
    arguments["clean_caption"] = False  # caption cleaning depends on the installed packages
    side = _latent_side(pipeline)
    if side is not None and side < MIN_BINNED_SIDE:
        arguments["use_resolution_binning"] = False
    if guided:
        assert settings.guide is not None
        arguments["strength"] = settings.guide.strength
        arguments["width"], arguments["height"] = size_of(pipeline, settings)
    else:
        arguments |= {key: size for key in ("height", "width") if (size := getattr(settings, key)) is not None}
        if settings.height and settings.width:
            arguments["max_area"] = settings.height * settings.width  # overrides Flux Kontext's default
    arguments |= _guidance(type(pipeline).__name__, settings, parameters)
    return {key: value for key, value in arguments.items() if key in parameters}


def size_of(pipeline: Any, settings: GeneratorSettings) -> tuple[int, int]:
    """Return the (width, height) of generated images in pixels, from the settings or the pipeline family's defaults."""
    side = (_latent_side(pipeline) or 0) * getattr(pipeline, "vae_scale_factor", 8)
    assert side or (settings.width and settings.height), type(pipeline)
    return settings.width or side, settings.height or side


def _guidance(name: str, settings: GeneratorSettings, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the arguments for negative prompts and true CFG; raise a UserError if they are not supported."""
    key = "synthesis.generator"
    negative, true = settings.negative_prompt, settings.true_guidance
    if negative is not None and "negative_prompt" not in parameters:
        raise UserError(f"{key}.negative_prompt: a {name} doesn't support negative prompts; remove this setting")
    if true is not None and "true_cfg_scale" not in parameters:
        raise UserError(
            f"{key}.true_guidance: a {name} doesn't support true classifier-free guidance (true CFG); use "
            "guidance instead"
        )
    if true is None and negative is not None and "true_cfg_scale" in parameters:
        raise UserError(f"{key}.negative_prompt: a {name} also needs true_guidance; set it to a value above 1")
    arguments: dict[str, Any] = {}
    if true is not None:
        arguments["true_cfg_scale"] = true
    if negative is not None or true is not None:
        arguments["negative_prompt"] = negative or ""
    return arguments


def _check_task(pipeline: Any, settings: GeneratorSettings, parameters: Mapping[str, inspect.Parameter]) -> None:
    from diffusers.pipelines import auto_pipeline

    generating: Any = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
    editing: Any = auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values()
    optional = type(pipeline) in generating and type(pipeline) in editing  # the image may be omitted
    inputs = [] if optional else [name for name in INPUT_PARAMETERS if name in parameters]
    if "prompt" not in parameters or "generator" not in parameters or inputs:
        needs = f"needs {inputs[0]!r}" if inputs else "lacks the `prompt` or `generator` argument"
        raise UserError(
            f"generator {settings.pipeline!r} is a {type(pipeline).__name__}, which {needs}; use a text-to-image "
            "pipeline"
        )


def _check_size(pipeline: Any, settings: GeneratorSettings) -> None:
    """Reject image sizes that a pipeline family would silently round (Flux) or fail on later (PixArt)."""
    step = _size_step(pipeline)
    for key in ("height", "width"):
        size = getattr(settings, key)
        if size is not None and size % step:
            nearest = max(step, round(size / step) * step)
            raise UserError(
                f"synthesis.generator.{key} is {size}, but a {type(pipeline).__name__} requires a multiple of {step} "
                f"pixels; try {nearest}"
            )


def _size_step(pipeline: Any) -> int:
    """Return the required divisor of width and height in pixels: pixels per latent times latents per patch side."""
    side = getattr(pipeline, "vae_scale_factor", 8)
    processor = getattr(getattr(pipeline, "image_processor", None), "config", {}).get("vae_scale_factor", 1)
    patch = getattr(getattr(getattr(pipeline, "transformer", None), "config", None), "patch_size", 1)
    return int(max(processor, side * patch if isinstance(patch, int) else side))


def denoiser(pipeline: Any) -> Any | None:
    """Return the pipeline's denoising network (a U-Net or transformer), or None if it has neither."""
    return getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)


def _latent_side(pipeline: Any) -> int | None:
    """Return the default side length of the latents, or the shorter side length of non-square latents."""
    config = getattr(denoiser(pipeline), "config", None)
    size = getattr(pipeline, "default_sample_size", None) or getattr(config, "sample_size", None)
    if isinstance(size, int):
        return size
    return min(size) if size else None
