"""From a located pipeline to one that is ready on its device: class, scheduler, LoRA, attention, compilation."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

from syncclip.core.settings import UserError
from syncclip.core.text import first_line, install_command, nearest
from syncclip.core.trust import module_of, require_trust
from syncclip.embedded import FOLDER
from syncclip.runtime.tempdirs import temporary_folder
from syncclip.storage.permissions import make_private
from syncclip.synthesis.generators.acceleration import hasten
from syncclip.synthesis.generators.arguments import denoiser
from syncclip.synthesis.generators.settings import GeneratorSettings, xformers_installed
from syncclip.synthesis.generators.weights import INDEX, LORA_FILE, Located

LARGER = "try synthesis.generator.offload=model, then group, then sequential, smaller images, or a larger machine"
"""What helps a model that doesn't fit into memory."""

BACKEND = "inductor"
"""What `torch.compile` compiles with."""
BATCH_SIZES = 256
"""So many sizes of a batch are compiled, each for itself; past its own limit of 8, torch would go on uncompiled."""


def load(settings: GeneratorSettings, located: Located, device: str) -> Any:
    """The pipeline with its scheduler, LoRA weights, autoencoder and attention, on `device`.

    Raises:
        UserError: it can't be read, a part of the settings doesn't fit it, or the device isn't there.
    """
    import diffusers
    import torch
    import transformers

    quiet(diffusers, transformers)
    source = str(FOLDER / "icons/generator") if located.source == "icons" else located.source
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.dtype]
    kind, what = _pipeline_class(settings.pipeline_class), f"generator {settings.pipeline!r}"
    _check_parts(Path(source))
    parts: dict[str, Any] = {"torch_dtype": dtype}
    if located.vae is not None:
        parts["vae"] = load_pretrained(diffusers.AutoModel, *located.vae, f"vae {settings.vae!r}", torch_dtype=dtype)
    pipeline = load_pretrained(kind, source, located.revision, what, **parts)
    if "vae" in parts and not hasattr(getattr(pipeline, "vae", None), "decode"):
        raise UserError(f"vae {settings.vae!r} is no autoencoder of a {type(pipeline).__name__}; name another")
    pipeline.set_progress_bar_config(disable=True)
    if settings.scheduler is not None:
        pipeline.scheduler = find_scheduler(settings.scheduler).from_config(pipeline.scheduler.config)
    _fuse_loras(pipeline, settings, located)
    if settings.speed != "exact":
        hasten(pipeline, settings, device)
    try:
        _place(pipeline, settings, device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{what} doesn't fit into the memory of {device}; {LARGER}") from error
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{what} can't run on {device}: {first_line(error)}; set synthesis.num_gpus=0 to generate on the CPU"
        ) from error
    if settings.attention == "xformers":
        set_attention(pipeline, "xformers", device)
    if settings.compile:
        _compile(pipeline, whole=settings.speed == "exact")
    return pipeline


def _place(pipeline: Any, settings: GeneratorSettings, device: str) -> None:
    """Move a pipeline to its device, or let its parts come there when they are needed."""
    if settings.offload == "none":
        pipeline.to(device)
    elif settings.offload == "group":
        pipeline.enable_group_offload(device, offload_type="leaf_level", use_stream=True)
    else:
        getattr(pipeline, f"enable_{settings.offload}_cpu_offload")(device=device)


def quiet(*libraries: Any) -> None:
    """Silence the bars of diffusers or transformers and the warnings known to be harmless (an AutoencoderTiny's)."""
    for library in libraries:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def load_pretrained(kind: Any, source: str, commit: str | None, what: str, **arguments: Any) -> Any:
    """What a class of diffusers or transformers loads from a folder or a repository, whose cached files come first.

    Args:
        source: the folder or, with `commit`, the hub name.
        what: how messages call it, such as "generator 'stabilityai/sdxl-turbo'".
        arguments: further ones of the class's `from_pretrained`.

    Raises:
        UserError: it can't be read.
    """
    if commit:
        arguments["revision"] = commit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return kind.from_pretrained(source, local_files_only=True, **arguments)
            except OSError:
                if not commit:
                    raise
                return kind.from_pretrained(source, **arguments)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise UserError(f"{what} can't be loaded from {source}: {first_line(error)}") from error


def _pipeline_class(name: str | None) -> Any:
    import diffusers

    module, colon, own = (name or "DiffusionPipeline").rpartition(":")
    try:
        home = module_of(f"{module}:{own}", "synthesis.generator.pipeline_class: ") if colon else diffusers
    except ImportError as error:
        raise UserError(
            f"synthesis.generator.pipeline_class: {module} can't be imported ({first_line(error)}); it must be "
            "importable wherever images are generated"
        ) from error
    return _class_of(home, own, "pipeline", "pipeline_class", "DiffusionPipeline")


LIBRARIES = ("diffusers", "transformers", "onnxruntime.training")
"""Of these, and of diffusers' own pipelines, are the parts of a pipeline that brings no code."""


def _check_parts(folder: Path) -> None:
    """Refuse a pipeline's folder by whose index code would be imported, from the folder itself or from elsewhere.

    Raises:
        UserError: the code is not trusted; see `core.trust`.
    """
    import diffusers

    if not folder.is_dir():
        return  # a name of the hub: diffusers itself refuses code of others
    for part, place in json.loads((folder / INDEX).read_bytes()).items():
        if not (isinstance(place, list) and len(place) == 2 and isinstance(place[0], str)):
            continue
        brought = (folder / part / f"{place[0]}.py").exists() or (folder / f"{place[0]}.py").exists()
        if brought or not (place[0] in LIBRARIES or hasattr(diffusers.pipelines, place[0])):
            require_trust(f"{place[0]}:{place[1]}", f"{folder / INDEX}: {part}: ")


def find_scheduler(name: str) -> Any:
    """The class of a scheduler of diffusers.

    Raises:
        UserError: there is none; names the nearest.
    """
    import diffusers

    return _class_of(diffusers, name, "scheduler", "scheduler", "SchedulerMixin")


def _class_of(module: Any, name: str, kind: str, key: str, base: str) -> Any:
    """The class that a module calls `name`, if it is derived from `base` of diffusers."""
    import diffusers

    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, getattr(diffusers, base))):
        near = nearest(name, [entry for entry in dir(module) if entry.endswith(kind.capitalize())])
        hint = f"did you mean {near!r}?" if near else f"name a class that is derived from diffusers' {base}"
        raise UserError(f"synthesis.generator.{key}: {module.__name__} has no {kind} {name!r}; {hint}")
    return found


def _compile(pipeline: Any, whole: bool) -> None:
    """Compile the denoiser when it is called: as a `whole`, or its repeated blocks, where it has any."""
    import torch

    network = denoiser(pipeline)
    if network is None:
        name = type(pipeline).__name__
        raise UserError(f"synthesis.generator.compile: a {name} has no single denoiser to compile; set it to false")
    _keep_private()
    # Left to itself, torch makes one kernel for several sizes when it meets a second one. Then an image's last bits
    # would depend on which batches its process generated before.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, BATCH_SIZES)
    blocks = not whole and bool(getattr(network, "_repeated_blocks", None))
    (network.compile_repeated_blocks if blocks else network.compile)(backend=BACKEND, dynamic=False)


def _keep_private() -> None:
    """Keep what is compiled in a folder of this user's: it is run, and others can guess the name of torch's own.

    A folder that the user has named stays; torch itself names its own in the environment when it is imported.
    """
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    guessable = Path(given).parent in (temporary_folder(), Path(tempfile.gettempdir()))
    if not given or (guessable and Path(given).name.startswith("torchinductor_")):
        folder = temporary_folder() / f"syncclip-{os.getuid()}-compiled"
        make_private(folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _fuse_loras(pipeline: Any, settings: GeneratorSettings, located: Located) -> None:
    """Add the LoRA weights to the pipeline's own, so that images cost no more than without them."""
    if not settings.loras:
        return
    name = type(pipeline).__name__
    if not hasattr(pipeline, "load_lora_weights"):
        raise UserError(f"synthesis.generator.loras: a {name} takes no LoRA weights; remove them")
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"synthesis.generator.loras: LoRA weights need peft; run `{install_command('lora')}`")
    adapters = [f"lora{number}" for number in range(len(settings.loras))]
    for adapter, lora in zip(adapters, located.loras, strict=True):
        misfit = f"LoRA weights {lora.weights!r} don't fit the {name} {settings.pipeline!r}"
        where = {"weight_name": lora.file or LORA_FILE, "revision": lora.revision}  # not asked for of a single file
        try:
            pipeline.load_lora_weights(lora.weights, adapter_name=adapter, use_safetensors=True, **where)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"{misfit}: {first_line(error)}") from error
        if not any(adapter in held for held in pipeline.get_list_adapters().values()):
            raise UserError(f"{misfit}: they name none of its layers; give those that were trained for it")
    pipeline.set_adapters(adapters, [lora.scale for lora in settings.loras])
    pipeline.fuse_lora(adapter_names=adapters)
    pipeline.unload_lora_weights()


KEY = "synthesis.generator.attention"


def set_attention(pipeline: Any, attention: Literal["sdpa", "xformers"], device: str) -> None:
    """Let the denoiser of a loaded pipeline use this attention.

    Raises:
        UserError: xformers is not installed, there is no GPU, or it doesn't know this denoiser.
    """
    if attention == "xformers":
        if not xformers_installed():
            raise UserError(f"{KEY}: xformers is not installed; run `{install_command('gpu')}`, or use attention=sdpa")
        if not device.startswith("cuda"):
            raise UserError(f"{KEY}: xformers runs on NVIDIA GPUs only, and this is {device}; use attention=sdpa")
    network = denoiser(pipeline)
    try:
        if network is not None and _takes_backends(network):
            network.set_attention_backend("native" if attention == "sdpa" else "xformers")
        elif attention == "xformers":
            pipeline.enable_xformers_memory_efficient_attention()
        else:
            pipeline.disable_xformers_memory_efficient_attention()
    except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
        raise UserError(
            f"{KEY}: xformers doesn't run this {type(pipeline).__name__} ({first_line(error)}); use attention=sdpa"
        ) from error


def _takes_backends(network: Any) -> bool:
    """Whether the processors look at diffusers' attention backends; a classic UNet's accept the call and ignore it."""
    if not hasattr(network, "set_attention_backend"):
        return False
    processors = (getattr(module, "processor", None) for module in network.modules())
    return any(hasattr(processor, "_attention_backend") for processor in processors)
