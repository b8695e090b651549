"""The `synthesis.generator` section of a recipe: the pipeline and its options."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from syncclip.core.settings import Settings, added

MACHINE = {"compile_cache": None, "offload": "none"}
"""Machine-specific settings, with the values that replace them in a stored plan."""

TOKEN = "SYNCCLIP_ENDPOINT_TOKEN"
"""Environment variable with an endpoint's token; OPENAI_API_KEY is ignored to avoid leaking it to other servers."""
REQUEST_KEYS = {"steps": "num_inference_steps", "guidance": "guidance_scale", "true_guidance": "true_cfg_scale"}
REQUEST_KEYS |= {"model": "model", "negative_prompt": "negative_prompt"}
"""JSON fields of an endpoint request, by setting name."""

UNKNOWN = "unknown"
"""Licence of weights without a model card that states it."""

EMBEDDED = "icons"
EMBEDDED_SIDE = 64
"""Width and height of the bundled generator's images in pixels."""


class LoraSettings(Settings):
    """LoRA weights to merge into the pipeline (arXiv 2106.09685)."""

    weights: str
    """LoRA weights: a `.safetensors` file, its folder, or a hub name such as `latent-consistency/lcm-lora-sdv1-5`."""
    file: str | None = None
    """Name of the weights file, if the folder or repository contains several."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    scale: float = 1.0
    """Scale of the LoRA weights."""


class GuideSettings(Settings):
    """Real guidance: start from a real image instead of noise, for classes with real images.

    Source: He et al., ICLR 2023 (arXiv 2210.07574).
    """

    strength: float = Field(0.7, gt=0, le=1)
    """Fraction of the denoising steps to run; the resulting number is rounded down. Values near 0 keep the real image;
    1 ignores the real image."""


class GeneratorSettings(Settings):
    """Image generator: the pipeline and its options. All settings except those in `MACHINE` affect the images."""

    pipeline: str = EMBEDDED
    """Pipeline to use: the bundled `icons`, a folder or storage URL with a `model_index.json`, a hub name such as
    `stabilityai/sdxl-turbo`, or an endpoint's URL such as `http://host:8000/v1`."""
    model: str | None = added(None)
    """Name of the model that the endpoint serves."""
    pipeline_class: str | None = added(None)
    """diffusers pipeline class, or custom code as `module:Class`; default: the class in the pipeline's index."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the plan stores the commit."""
    scheduler: str | None = None
    """diffusers scheduler class, such as `EulerDiscreteScheduler`; default: the pipeline's scheduler."""
    steps: int = Field(20, ge=1)
    """Denoising steps per image."""
    guidance: float = Field(4.0, ge=0)
    """Classifier-free guidance scale, active above 1; guidance-distilled models (Flux, LCM) receive it as an input."""
    true_guidance: float | None = added(None, gt=1)
    """True classifier-free guidance (true CFG) scale for guidance-distilled models (Flux, Qwen-Image), at twice the
    compute cost."""
    negative_prompt: str | None = None
    """Negative prompt for classifier-free guidance."""
    height: int | None = Field(None, ge=8, multiple_of=8)
    """Image height in pixels; default: the pipeline's native height."""
    width: int | None = Field(None, ge=8, multiple_of=8)
    """Image width in pixels; default: the pipeline's native width."""
    batch_size: int | Literal["auto"] = 8
    """Number of images per batch; stored in the plan, since it affects the least significant bits of images. `auto`
    selects the fastest batch size, measured before the first shard."""
    speed: Literal["exact", "fast", "max"] = added("exact")
    """Speed optimisations. `exact` uses none. `fast` uses compiled blocks in bf16, fused projections and the
    channels-last layout. `max` also uses int8 and a step cache. Each value gives different images."""
    dtype: Literal["fp32", "bf16", "fp16"] = Field(
        default_factory=lambda values: "fp32" if values.get("speed", "exact") == "exact" else "bf16",
        json_schema_extra={"default": "fp32"},
    )
    """Precision of weights and arithmetic; each value gives different images. With a `speed` other than `exact`, the
    default is bf16 and fp32 is not supported."""
    loras: tuple[LoraSettings, ...] = added(())
    """LoRA weights, merged in this order at load time."""
    vae: str | None = added(None)
    """Replacement for the pipeline's autoencoder: a folder, or a hub name such as `madebyollin/sdxl-vae-fp16-fix`."""
    guide: GuideSettings | None = added(None)
    """Real guidance: start from the class's few-shot images, if it has any. Default: generate from text alone."""
    attention: Literal["sdpa", "xformers", "flash", "sage"] = added("sdpa")
    """diffusers attention backend; all except `sdpa` (PyTorch) require an additional package and a GPU."""
    compile: bool = added(
        False,
        default_factory=lambda values: values.get("speed", "exact") != "exact",
        json_schema_extra={"default": False},
    )
    """Compile the denoiser with `torch.compile`, which adds minutes to the first batch. Default: true unless `speed`
    is `exact`."""
    compile_cache: str | None = added(None)
    """Folder or URL of a compile cache shared by all actors; default: a private folder on each machine. Anyone with
    write access to the cache can run code on your machines."""
    offload: Literal["none", "model", "group", "sequential"] = added("none")
    """CPU offload of idle weights: by model, by layer with prefetching (`group`), or by layer (`sequential`)."""

    @property
    def derived(self) -> set[str]:
        """Names of the unset settings whose defaults depend on `speed`."""
        return {"dtype", "compile"} - self.model_fields_set

    @property
    def endpoint(self) -> bool:
        """Whether a server generates the images."""
        return self.pipeline.lower().startswith(("http://", "https://"))

    @field_validator("batch_size", mode="before")
    @classmethod
    def _check_batch_size(cls, size: Any) -> Any:
        if size != "auto" and not (isinstance(size, int) and size >= 1):
            raise ValueError(f"{size!r} is not a valid batch size; use a positive integer, or 'auto'")
        return size

    @model_validator(mode="after")
    def _check_consistency(self) -> GeneratorSettings:
        if self.speed != "exact" and (self.dtype == "fp32" or not self.compile):
            other = "compile=false" if self.dtype != "fp32" else "dtype=fp32"
            raise ValueError(f"{other} contradicts speed={self.speed}; remove either setting")
        if self.offload == "sequential" and self.compile:
            raise ValueError("offload=sequential doesn't support compile; use offload=group")
        if self.compile_cache and "://" not in self.compile_cache and not self.compile_cache.startswith("/"):
            raise ValueError(f"compile_cache {self.compile_cache!r} must be an absolute path or a URL")
        sides = {self.height, self.width} - {None, EMBEDDED_SIDE}
        if self.pipeline == EMBEDDED and sides:
            raise ValueError(
                f"the bundled generator {EMBEDDED!r} only generates images of {EMBEDDED_SIDE} x {EMBEDDED_SIDE} "
                f"pixels, not {max(filter(None, sides))}; remove height and width, or use a different pipeline"
            )
        if self.negative_prompt is not None and self.guidance <= 1 and self.true_guidance is None:
            raise ValueError(
                f"negative_prompt needs guidance above 1, but guidance is {self.guidance:g}; increase guidance, or "
                "remove negative_prompt"
            )
        if self.guide is not None and int(self.steps * self.guide.strength) < 1:
            raise ValueError(
                f"{self.steps} steps at guide.strength {self.guide.strength:g} leave no denoising steps; "
                f"use at least {-int(-1 // self.guide.strength)} steps, or increase the strength"
            )
        if self.endpoint and {*"@?#"} & {*self.pipeline}:
            raise ValueError(f"pipeline: remove user, password and query from the URL; set {TOKEN} to a token instead")
        fields = type(self).model_fields
        allowed = (
            {*REQUEST_KEYS, "pipeline", "height", "width", "batch_size"} if self.endpoint else {*fields} - {"model"}
        )
        for key, field in fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            if key not in allowed and getattr(self, key) != default:
                reason = "endpoints don't support this setting" if self.endpoint else "only endpoints use this setting"
                raise ValueError(f"{key} has no effect with {self.pipeline}, since {reason}; remove it")
        if self.endpoint and (None in (self.model, self.height, self.width) or self.batch_size == "auto"):
            raise ValueError("an endpoint needs model, height, width and a numeric batch_size; set all four")
        return self
