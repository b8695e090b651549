"""Pipeline loading, including the scheduler, LoRA weights, autoencoder, attention backend and compilation."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from syncclip.core.permissions import make_private
from syncclip.core.settings import UserError
from syncclip.core.text import first_line, install_command, nearest
from syncclip.core.trust import module_of, require_trust
from syncclip.embedded import FOLDER
from syncclip.runtime.tempdirs import temporary_folder
from syncclip.storage.local_copies import local_copy
from syncclip.synthesis.generators.acceleration import accelerate, set_attention
from syncclip.synthesis.generators.arguments import denoiser
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import INDEX, LORA_FILE, Located

OOM_REMEDY = "try synthesis.generator.offload=model (or group, or sequential), smaller images, or a larger machine"

BACKEND = "inductor"
"""Backend of `torch.compile`."""
RECOMPILE_LIMIT = 256
"""Maximum number of compiled batch sizes, above which torch runs in eager mode; torch's default is 8."""
LIBRARIES = ("diffusers", "transformers", "onnxruntime.training")
"""Libraries trusted in a pipeline's index, in addition to diffusers' pipelines."""


def load(settings: GeneratorSettings, located: Located, device: str) -> Any:
    """Load the pipeline; raise a UserError if it is unreadable or doesn't support the settings or device."""
    if located.files is not None:
        with local_copy(located.source, located.files) as folder:
            return load(settings, located._replace(source=str(folder), files=None), device)
    import diffusers
    import torch
    import transformers

    quiet(diffusers, transformers)
    source = str(FOLDER / "icons/generator") if located.source == "icons" else located.source
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.dtype]
    pipeline_class, label = _pipeline_class(settings.pipeline_class), f"generator {settings.pipeline!r}"
    _check_index(Path(source))
    parts: dict[str, Any] = {"torch_dtype": dtype}
    if located.vae is not None:
        parts["vae"] = load_pretrained(diffusers.AutoModel, *located.vae, f"vae {settings.vae!r}", torch_dtype=dtype)
    pipeline = load_pretrained(pipeline_class, source, located.revision, label, **parts)
    if "vae" in parts and not hasattr(getattr(pipeline, "vae", None), "decode"):
        raise UserError(
            f"vae {settings.vae!r} is not compatible with a {type(pipeline).__name__}; use a different autoencoder"
        )
    pipeline.set_progress_bar_config(disable=True)
    if settings.scheduler is not None:
        pipeline.scheduler = find_scheduler(settings.scheduler).from_config(pipeline.scheduler.config)
    _fuse_loras(pipeline, settings, located)
    if settings.speed != "exact":
        accelerate(pipeline, settings, device)
    try:
        if settings.offload == "none":
            pipeline.to(device)
        elif settings.offload == "group":
            pipeline.enable_group_offload(device, offload_type="leaf_level", use_stream=True)
        else:
            getattr(pipeline, f"enable_{settings.offload}_cpu_offload")(device=device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{label} doesn't fit in the memory of {device}; {OOM_REMEDY}") from error
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{label} can't run on {device}: {first_line(error)}; set synthesis.num_gpus=0 to generate on the CPU"
        ) from error
    set_attention(pipeline, settings.attention, device)
    if settings.compile:
        _compile(pipeline, by_blocks=settings.speed != "exact")
    return pipeline


def quiet(*libraries: Any) -> None:
    """Disable progress bars and warnings of diffusers or transformers."""
    for library in libraries:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def load_pretrained(cls: Any, source: str, commit: str | None, label: str, **arguments: Any) -> Any:
    """Call `from_pretrained` with cached files if possible; `source` is a folder or, with a `commit`, a hub name.

    Raise a UserError whose message starts with `label` if loading fails.
    """
    if commit:
        arguments["revision"] = commit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return cls.from_pretrained(source, local_files_only=True, **arguments)
            except OSError:
                if not commit:
                    raise
                return cls.from_pretrained(source, **arguments)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise UserError(f"{label} can't be loaded from {source}: {first_line(error)}") from error


def _pipeline_class(name: str | None) -> Any:
    import diffusers

    module, colon, class_name = (name or "DiffusionPipeline").rpartition(":")
    key = "synthesis.generator.pipeline_class"
    try:
        home = module_of(f"{module}:{class_name}", f"{key}: ") if colon else diffusers
    except ImportError as error:
        raise UserError(
            f"{key}: {module} can't be imported ({first_line(error)}); make it importable on every machine that "
            "generates images"
        ) from error
    return _class_of(home, class_name, "pipeline", "pipeline_class", "DiffusionPipeline")


def _check_index(folder: Path) -> None:
    """Reject a pipeline folder whose index imports untrusted code (see `core.trust`)."""
    import diffusers

    if not folder.is_dir():
        return  # a hub name, for which diffusers rejects remote code
    for part, entry in json.loads((folder / INDEX).read_bytes()).items():
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            continue
        module, name = entry
        included = (folder / part / f"{module}.py").exists() or (folder / f"{module}.py").exists()
        if included or not (module in LIBRARIES or hasattr(diffusers.pipelines, module)):
            require_trust(f"{module}:{name}", f"{folder / INDEX}: {part}: ")


def find_scheduler(name: str) -> Any:
    """Return a diffusers scheduler class by name; raise a UserError with a suggestion if there is no such class."""
    import diffusers

    return _class_of(diffusers, name, "scheduler", "scheduler", "SchedulerMixin")


def _class_of(module: Any, name: str, noun: str, key: str, base: str) -> Any:
    """Return the class `name` of a module; raise a UserError unless it is a subclass of diffusers' `base`."""
    import diffusers

    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, getattr(diffusers, base))):
        near = nearest(name, [entry for entry in dir(module) if entry.endswith(noun.capitalize())])
        hint = f"did you mean {near!r}?" if near else f"use a subclass of diffusers' {base}"
        raise UserError(f"synthesis.generator.{key}: {module.__name__} has no {noun} {name!r}; {hint}")
    return cls


def _compile(pipeline: Any, by_blocks: bool) -> None:
    """Compile the denoiser on its first call or, with `by_blocks`, only its repeated blocks, if any."""
    import torch

    network = denoiser(pipeline)
    if network is None:
        name = type(pipeline).__name__
        raise UserError(f"synthesis.generator.compile: a {name} has no single denoiser to compile; use compile=false")
    _use_private_cache()
    # With dynamic shapes, torch compiles one kernel for all sizes at the second batch size, and images
    # would depend on previous batches in their least significant bits.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    by_blocks = by_blocks and bool(getattr(network, "_repeated_blocks", None))
    (network.compile_repeated_blocks if by_blocks else network.compile)(backend=BACKEND, dynamic=False)


def _use_private_cache() -> None:
    """Move torch's compile cache to a private folder, since other users can guess the default path.

    A folder set by the user is kept; the default folder that `import torch` sets in the environment is replaced.
    """
    current = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    guessable = Path(current).parent in (temporary_folder(), Path(tempfile.gettempdir()))
    if not current or (guessable and Path(current).name.startswith("torchinductor_")):
        folder = temporary_folder() / f"syncclip-{os.getuid()}-compiled"
        make_private(folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _fuse_loras(pipeline: Any, settings: GeneratorSettings, located: Located) -> None:
    """Merge the LoRA weights into the pipeline's weights."""
    if not settings.loras:
        return
    name = type(pipeline).__name__
    if not hasattr(pipeline, "load_lora_weights"):
        raise UserError(f"synthesis.generator.loras: a {name} doesn't support LoRA weights; remove them")
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"synthesis.generator.loras: LoRA weights need peft; run `{install_command('lora')}`")
    adapters = [f"lora{number}" for number in range(len(settings.loras))]
    for adapter, lora in zip(adapters, located.loras, strict=True):
        misfit = f"LoRA weights {lora.weights!r} are not compatible with the {name} {settings.pipeline!r}"
        source = {"weight_name": lora.file or LORA_FILE, "revision": lora.revision}  # ignored for a single file
        try:
            pipeline.load_lora_weights(lora.weights, adapter_name=adapter, use_safetensors=True, **source)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"{misfit}: {first_line(error)}") from error
        if not any(adapter in names for names in pipeline.get_list_adapters().values()):
            raise UserError(f"{misfit}: no layer matches; use weights trained for this model")
    pipeline.set_adapters(adapters, [lora.scale for lora in settings.loras])
    pipeline.fuse_lora(adapter_names=adapters)
    pipeline.unload_lora_weights()
