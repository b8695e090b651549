"""One class for any diffusers text-to-image pipeline: a hub name, a folder, or the embedded `icons`."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image
from pydantic import Field, field_validator

from syncclip.embedded import folder
from syncclip.settings import Settings, UserError

HUB_TIMEOUT = 5.0
"""Seconds that the hub may take to answer whether it knows a pipeline."""

WEIGHT_FILES = (".json", ".safetensors", ".bin", ".txt", ".model")
WHOLE_FILE = 64 * 2**20
"""Files up to this size are hashed whole, larger ones by their size, first and last MiB."""


class GeneratorSettings(Settings):
    """Which pipeline draws, and how. All of it decides the pictures' bytes."""

    pipeline: str = "icons"
    """`icons`, a folder with a `model_index.json`, or a hub name such as `stabilityai/sdxl-turbo`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit that it stood for is kept in the plan."""
    scheduler: str | None = None
    """A diffusers scheduler class, such as `EulerDiscreteScheduler`; the pipeline's own where it is not given."""
    steps: int = Field(20, ge=1)
    guidance: float = Field(4.0, ge=0)
    negative_prompt: str | None = None
    height: int | None = Field(None, ge=8)
    width: int | None = Field(None, ge=8)
    batch_size: int = Field(8, ge=1)
    """Pictures drawn at once. A picture's last bits may depend on it, so it belongs to the plan."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"

    @field_validator("height", "width")
    @classmethod
    def _whole_latents(cls, size: int | None) -> int | None:
        if size is not None and size % 8:
            nearest = max(8, round(size / 8) * 8)
            raise ValueError(f"{size} pixels is not a multiple of 8, which latent diffusion needs; try {nearest}")
        return size


class Located(NamedTuple):
    """Where a pipeline comes from ("icons", an absolute path or a hub name) and what identifies its weights."""

    source: str
    revision: str | None
    fingerprint: str


def locate(settings: GeneratorSettings, fingerprint: str = "") -> Located:
    """Find a pipeline without loading it: this machine's folders first, then the hub's cache, then the hub.

    Args:
        settings: the pipeline's name and revision.
        fingerprint: what an earlier call gave, kept in the plan. Other local weights are refused; of the hub's
            revisions this one is meant, and nobody asks the hub what is newest.

    Raises:
        UserError: it is nowhere, or the hub can't be asked; after `HUB_TIMEOUT` at most.
    """
    found = _locate(settings, fingerprint)
    if fingerprint and found.fingerprint != fingerprint:
        raise UserError(
            f"generator {settings.pipeline!r}: the weights at {found.source} are not those that the set was begun "
            "with; restore them or draw into another folder"
        )
    return found


def _locate(settings: GeneratorSettings, fingerprint: str) -> Located:
    name = settings.pipeline
    path = folder("icons/generator") if name == "icons" else Path(name).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise UserError(
                f"generator {name!r}: the folder {path} has no model_index.json; give a folder that diffusers' "
                "save_pretrained wrote"
            )
        return Located(name if name == "icons" else str(path.resolve()), None, _fingerprint(path))
    if name == "icons":
        raise UserError(f"generator 'icons': its weights are missing at {path}; install the package again")
    return Located(name, fingerprint, fingerprint) if fingerprint else _locate_on_hub(name, settings.revision)


class Generator:
    """Draws pictures with one pipeline; holds its weights.

    Picture i depends on prompt i, seed i, the settings and, in its last bits, on the batch that it is drawn in, on
    the kind of device and on torch's number of threads. Its noise is always made on the CPU.

    Args:
        settings: the pipeline and how to run it.
        device: `cpu`, `cuda` or another torch device.
        fingerprint: what `locate` gave when the plan was made; other weights than those are refused.

    Raises:
        UserError: the pipeline is missing, changed, can't be read, or isn't text-to-image.
    """

    def __init__(self, settings: GeneratorSettings, device: str = "cpu", fingerprint: str = "") -> None:
        import torch

        self.settings = settings
        located = locate(settings, fingerprint)
        _quiet()
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.dtype]
        self.pipeline = _load(settings, located, dtype)
        self._arguments = _call_arguments(self.pipeline, settings)
        self.pipeline.set_progress_bar_config(disable=True)
        try:
            self.pipeline.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"generator {settings.pipeline!r} can't run on {device}: {_first_line(error)}; "
                "set synthesis.num_gpus=0 to draw on the CPU"
            ) from error

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One RGB picture for each (prompt, seed), drawn as one batch."""
        import torch

        assert len(prompts) == len(seeds) > 0
        arguments = dict(self._arguments)
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [self.settings.negative_prompt or ""] * len(prompts)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = self.pipeline(
                prompt=list(prompts),
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="pil",
                **arguments,
            )
        return [picture.convert("RGB") for picture in drawn.images]


def _locate_on_hub(name: str, revision: str | None) -> Located:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        index = huggingface_hub.hf_hub_download(name, "model_index.json", revision=revision, local_files_only=True)
        commit = Path(index).parent.name
        return Located(name, commit, commit)
    except HFValidationError as error:
        raise UserError(f"generator {name!r}: there is no such folder, and it is no name of the hub either") from error
    except OSError:
        pass  # not in the cache
    missing = f"generator {name!r}: there is no such folder, it is not in the local Hugging Face cache, and"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise UserError(f"{missing} HF_HUB_OFFLINE forbids asking the hub; correct the name or unset it")
    try:
        commit = huggingface_hub.HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT).sha or ""
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise UserError(f"{missing} the hub says: {_first_line(error)}; correct the name or log in") from error
    except Exception as error:  # no route, no name server, a proxy's refusal: each HTTP library has its own errors
        raise UserError(
            f"{missing} the hub can't be reached ({_first_line(error)}); correct the name, download it where there is "
            "a network and give the folder, or use the embedded generator 'icons'"
        ) from error
    return Located(name, commit, commit)


def _load(settings: GeneratorSettings, located: Located, dtype: Any) -> Any:
    import diffusers

    source = str(folder("icons/generator")) if located.source == "icons" else located.source
    load: Any = diffusers.DiffusionPipeline.from_pretrained
    arguments: dict[str, Any] = {"torch_dtype": dtype}
    if located.revision:
        arguments["revision"] = located.revision
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pipeline = load(source, local_files_only=True, **arguments)
            except OSError:
                if located.revision is None:
                    raise
                pipeline = load(source, **arguments)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise UserError(
            f"generator {settings.pipeline!r} can't be loaded from {located.source}: {_first_line(error)}"
        ) from error
    if settings.scheduler is not None:
        pipeline.scheduler = _scheduler(settings.scheduler).from_config(pipeline.scheduler.config)
    return pipeline


def _scheduler(name: str) -> Any:
    import diffusers

    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        known = [entry for entry in dir(diffusers) if entry.endswith("Scheduler")]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else f"; for example {known[0]!r}"
        raise UserError(f"synthesis.generator.scheduler: diffusers has no scheduler {name!r}{hint}")
    return found


def _call_arguments(pipeline: Any, settings: GeneratorSettings) -> dict[str, Any]:
    """What this pipeline's call takes of the settings; pipelines differ in that."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(type(pipeline).__call__).parameters
    name = type(pipeline).__name__
    images = [p for p in ("image", "mask_image", "control_image", "video") if p in parameters]
    if "prompt" not in parameters or "generator" not in parameters or images:
        needs = f"needs {images[0]!r}" if images else "takes no prompt or no generator"
        raise UserError(f"generator {settings.pipeline!r} is a {name}, which {needs}; give a text-to-image pipeline")
    wanted: dict[str, Any] = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
    for key in ("height", "width"):
        if (size := getattr(settings, key)) is not None:
            wanted[key] = size
    if settings.negative_prompt is not None:
        if "negative_prompt" not in parameters:
            raise UserError(f"synthesis.generator.negative_prompt: a {name} takes none; remove it")
        wanted["negative_prompt"] = settings.negative_prompt
    return {key: value for key, value in wanted.items() if key in parameters}


def _fingerprint(path: Path) -> str:
    """Hex digest (16 digits) of a pipeline's index and parts, names and contents; files beside them may change."""
    digest = hashlib.sha256()
    files = [path / "model_index.json"]
    files += [f for f in path.glob("*/**/*") if f.is_file() and f.suffix in WEIGHT_FILES]
    for file in sorted(files, key=lambda f: f.relative_to(path).as_posix()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= WHOLE_FILE:
                digest.update(stream.read())
            else:
                digest.update(stream.read(1 << 20))
                stream.seek(-(1 << 20), os.SEEK_END)
                digest.update(stream.read())
    return digest.hexdigest()[:16]


def _quiet() -> None:
    """Silence the libraries' bars and the warnings known to be harmless (an AutoencoderTiny's, mostly)."""
    import diffusers
    import transformers

    libraries: tuple[Any, ...] = (diffusers, transformers)
    for library in libraries:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
