"""Section `synthesis.generator` of a recipe: which pipeline generates, and how."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from syncclip.core.settings import Settings, added

Attention = Literal["auto", "sdpa", "xformers"]


def xformers_installed() -> bool:
    """Whether xformers could be imported; importing it takes seconds and warns."""
    return importlib.util.find_spec("xformers") is not None


MACHINE = {"compile_cache": None, "offload": "none"}
"""Keys that no plan holds, and their values there: they depend on who generates."""

TOKEN = "SYNCCLIP_ENDPOINT_TOKEN"
"""Environment variable with what an endpoint asks for. It isn't OPENAI_API_KEY, which is not for every address."""
SENT = {"steps": "num_inference_steps", "guidance": "guidance_scale", "true_guidance": "true_cfg_scale"}
SENT |= {"model": "model", "negative_prompt": "negative_prompt"}
"""What requests to an endpoint call the settings that they hold."""

EMBEDDED = "icons"
EMBEDDED_SIDE = 64
"""Pixels of an embedded image's sides, the only ones that its generator has learned."""


class LoraSettings(Settings):
    """Low-rank weights that are added to the pipeline's own before anything is generated (arXiv 2106.09685)."""

    weights: str
    """A `.safetensors` file, a folder that holds one, or a hub name such as `latent-consistency/lcm-lora-sdv1-5`."""
    file: str | None = None
    """Name of the file, where a folder or a repository holds several."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    scale: float = 1.0
    """How much of them is added."""


class GuideSettings(Settings):
    """Images of classes with real ones start from those instead of from noise.

    Source: "real guidance" in He et al., ICLR 2023 (arXiv 2210.07574).
    """

    strength: float = Field(0.7, gt=0, le=1)
    """How much of a real image is replaced: little of it changes near 0, nothing of it is left at 1. So many of the
    steps are made, rounded down."""


def _by_speed(exact: Any, faster: Any) -> Any:
    """The default of a key that follows from `speed`."""
    return lambda given: exact if given.get("speed", "exact") == "exact" else faster


class GeneratorSettings(Settings):
    """Which pipeline generates, and how. All but `MACHINE` decides the images' bytes."""

    pipeline: str = EMBEDDED
    """`icons`, a folder with a `model_index.json`, a hub name such as `stabilityai/sdxl-turbo`, or the address of an
    endpoint, such as `http://host:8000/v1`."""
    model: str | None = added(None)
    """Of an endpoint: the name under which it serves its model."""
    pipeline_class: str | None = added(None)
    """Class that the parts are loaded into: one of diffusers, or `module:Class` of your own; by default what the
    pipeline's index names."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit that it stood for is kept in the plan."""
    scheduler: str | None = None
    """A diffusers scheduler class, such as `EulerDiscreteScheduler`; the pipeline's own where it is not given."""
    steps: int = Field(20, ge=1)
    """Denoising steps of an image."""
    guidance: float = Field(4.0, ge=0)
    """Classifier-free guidance, on above 1. Where a family has it built in (Flux, LCM), the number that it is given."""
    true_guidance: float | None = added(None, gt=1)
    """Classifier-free guidance of families whose `guidance` is built in (Flux, Qwen-Image): twice the work."""
    negative_prompt: str | None = None
    """What images shall not show; only for pipelines with classifier-free guidance."""
    height: int | None = Field(None, ge=8)
    """Of an image, in pixels; None: the pipeline's own."""
    width: int | None = Field(None, ge=8)
    """Of an image, in pixels; None: the pipeline's own."""
    batch_size: int | Literal["auto"] = 8
    """Images in a batch. An image's last bits may depend on it, so it belongs to the plan. `auto`: measured once,
    before the first shard of a new set."""
    speed: Literal["exact", "fast", "max"] = added("exact")
    """`exact`: the images of the pipeline's plain call. `fast`: compiled blocks in bf16, fused projections, channels
    last. `max`: int8 and a step cache as well. The images of another speed are other images."""
    dtype: Literal["fp32", "bf16", "fp16"] = Field(
        default_factory=_by_speed("fp32", "bf16"), json_schema_extra={"default": "fp32"}
    )
    """Of the pipeline's weights and arithmetic; the images of another type are other images. bf16 at another speed
    than `exact`, which refuses fp32."""
    loras: tuple[LoraSettings, ...] = added(())
    """Added to the weights in this order, when they are loaded."""
    vae: str | None = added(None)
    """Autoencoder in place of the pipeline's own: a folder, or a hub name such as `madebyollin/sdxl-vae-fp16-fix`."""
    guide: GuideSettings | None = added(None)
    """Start from the few real images, where a class has some; None: generate all from text alone."""
    attention: Attention = added("auto")
    """PyTorch's own attention (`sdpa`) or that of `xformers`, which needs a GPU. `auto`: PyTorch's, unless xformers is
    installed and measured to be faster before the first shard of a new set."""
    compile: bool = added(False, default_factory=_by_speed(False, True), json_schema_extra={"default": False})
    """Whether `torch.compile` makes the denoiser faster, after minutes at the first batch; true at another speed than
    `exact`."""
    compile_cache: str | None = added(None)
    """Folder or URL of compiled code: what one actor has compiled, others read. Whoever can write there can run code
    here. None: a folder of this user's on each machine."""
    offload: Literal["none", "model", "group", "sequential"] = added("none")
    """What of a model waits in main memory until the GPU needs it: all but a part, a layer (prefetched), or a layer."""

    @property
    def derived(self) -> set[str]:
        """The keys that follow from `speed`, since nobody gave them."""
        return {"dtype", "compile"} - self.model_fields_set

    @property
    def endpoint(self) -> bool:
        """Whether somebody's server generates, whose bytes are no promise of ours."""
        return self.pipeline.lower().startswith(("http://", "https://"))

    def open_questions(self, device: str) -> bool:
        """Whether something has to be measured before the settings hold all that decides an image."""
        return self.batch_size == "auto" or self.open_attention(device)

    def open_attention(self, device: str) -> bool:
        """Whether the attention has to be measured."""
        return not self.endpoint and self.attention == "auto" and device.startswith("cuda") and xformers_installed()

    @field_validator("batch_size", mode="before")
    @classmethod
    def _some_images(cls, size: Any) -> Any:
        if size != "auto" and not (isinstance(size, int) and size >= 1):
            raise ValueError(f"{size!r} is not allowed; it must be a whole number, at least 1, or 'auto'")
        return size

    @field_validator("height", "width")
    @classmethod
    def _whole_latents(cls, size: int | None) -> int | None:
        if size is not None and size % 8:
            nearest = max(8, round(size / 8) * 8)
            raise ValueError(f"{size} pixels is not a multiple of 8, which latent diffusion needs; try {nearest}")
        return size

    @model_validator(mode="after")
    def _check_consistency(self) -> GeneratorSettings:
        if self.speed != "exact" and (self.dtype == "fp32" or not self.compile):
            other = "compile=false" if self.dtype != "fp32" else "dtype=fp32"
            raise ValueError(f"{other} contradicts speed={self.speed}; remove one of them")
        if self.offload == "sequential" and self.compile:
            raise ValueError("offload=sequential exchanges the weights of compiled code; use offload=group")
        if self.compile_cache and "://" not in self.compile_cache and not self.compile_cache.startswith("/"):
            raise ValueError(f"compile_cache {self.compile_cache!r} is no whole path, and no URL; actors need one")
        asked = {self.height, self.width} - {None, EMBEDDED_SIDE}
        if self.pipeline == EMBEDDED and asked:
            raise ValueError(
                f"the embedded generator {EMBEDDED!r} generates images of {EMBEDDED_SIDE} x {EMBEDDED_SIDE} pixels "
                f"alone, not of {max(filter(None, asked))}; leave height and width out, or name another pipeline"
            )
        if self.negative_prompt is not None and self.guidance <= 1 and self.true_guidance is None:
            raise ValueError(
                f"a negative_prompt is read only with guidance above 1, and it is {self.guidance:g}; raise it, or "
                "remove the negative_prompt"
            )
        if self.guide is not None and int(self.steps * self.guide.strength) < 1:
            raise ValueError(
                f"{self.steps} steps at guide.strength {self.guide.strength:g} leave no step to make; "
                f"give at least {-int(-1 // self.guide.strength)} steps, or a greater strength"
            )
        return self

    @model_validator(mode="after")
    def _check_endpoint(self) -> GeneratorSettings:
        if self.endpoint and {*"@?#"} & {*self.pipeline}:
            raise ValueError(f"pipeline: give an address without user, password and query; {TOKEN} may hold a token")
        fields = type(self).model_fields
        allowed = {*SENT, "pipeline", "height", "width", "batch_size"} if self.endpoint else {*fields} - {"model"}
        for key, field in fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            if key not in allowed and getattr(self, key) != default:
                reason = "no request to an endpoint can hold it" if self.endpoint else "only an endpoint serves models"
                raise ValueError(f"{key} is of no use with {self.pipeline}, for {reason}; remove it")
        if self.endpoint and (None in (self.model, self.height, self.width) or self.batch_size == "auto"):
            raise ValueError("an endpoint must be told model, height, width and a batch_size in numbers; give all four")
        return self
