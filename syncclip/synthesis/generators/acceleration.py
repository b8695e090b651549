"""Optimisations for faster denoising: the `speed` setting, attention backends, and a shared compile cache."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import first_line, install_command
from syncclip.core.trust import COMPILED, require_trust
from syncclip.runtime.progress import print_message
from syncclip.synthesis.generators.arguments import denoiser
from syncclip.synthesis.generators.settings import MACHINE, GeneratorSettings

INT8_LAYERS = re.compile(r"attn|\bff|mlp|blocks\.\d+\.proj_out")
"""Pattern for names of layers applied to all tokens; inputs of other layers have too few rows for int8 kernels."""

MISSES = "fxgraph_cache_miss"
"""Name of torch's counter for graphs compiled by this process."""

STEP_CACHE_THRESHOLD = 0.05
"""If the first block's output changes by a smaller fraction between steps, the other blocks' outputs are reused."""


def accelerate(pipeline: Any, settings: GeneratorSettings, device: str) -> None:
    """Apply the optimisations of `settings.speed`, except for dtype and compilation, to a pipeline in host memory.

    Optimisations that a pipeline family doesn't support are skipped, with one message per process.
    """
    import torch
    from diffusers import FirstBlockCacheConfig

    network, name = denoiser(pipeline), type(pipeline).__name__
    if network is None:
        raise UserError(f"synthesis.generator.speed: a {name} has no single denoiser to accelerate; use speed=exact")
    for part in (getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)):
        if part is not None and all(weight.dim() < 5 for weight in part.parameters()):
            part.to(memory_format=torch.channels_last)
    try:
        network.fuse_qkv_projections()
    except (AttributeError, ValueError):
        _report_skipped(name, "fused projections")
    if settings.speed != "max":
        return
    _quantize(network, device)
    calls = inspect.unwrap(type(pipeline).__call__).__code__.co_names
    if settings.guide is None and hasattr(network, "enable_cache") and "cache_context" in calls:
        network.enable_cache(FirstBlockCacheConfig(threshold=STEP_CACHE_THRESHOLD))
    else:
        _report_skipped(name, "the step cache" if settings.guide is None else "the step cache with a guide")


@functools.cache
def _report_skipped(name: str, optimisation: str) -> None:
    print_message(f"synthesis.generator.speed: a {name} doesn't support {optimisation}; skipping this optimisation")


def _quantize(network: Any, device: str) -> None:
    """Quantise large linear layers to int8, with one scale per weight row and input token."""
    if importlib.util.find_spec("torchao") is None:
        install = install_command("fast")
        raise UserError(f"synthesis.generator.speed: speed=max needs torchao; run `{install}`, or use speed=fast")
    from torch.nn import Linear
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    def is_large(module: Any, name: str) -> bool:
        matches = isinstance(module, Linear) and INT8_LAYERS.search(name) is not None and "norm" not in name
        return matches and module.in_features % 16 == module.out_features % 16 == 0

    quantize_(network, Int8DynamicActivationInt8WeightConfig(), filter_fn=is_large, device=device)


def set_attention(pipeline: Any, backend: str, device: str) -> None:
    """Set the diffusers attention backend; raise a UserError if it is unavailable or doesn't support the denoiser."""
    if backend == "sdpa":
        return  # diffusers' default
    key, name, network = "synthesis.generator.attention", type(pipeline).__name__, denoiser(pipeline)
    if not device.startswith("cuda"):
        raise UserError(f"{key}: {backend} needs an NVIDIA GPU, but the device is {device}; use attention=sdpa")
    try:
        if network is not None and _has_dispatcher(network):
            network.set_attention_backend(backend)
        elif backend == "xformers":
            pipeline.enable_xformers_memory_efficient_attention()
        else:
            raise ValueError("the attention layers don't use diffusers' dispatcher")
    except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
        install = f"run `{install_command('gpu')}`, or " if backend == "xformers" else ""
        raise UserError(
            f"{key}: {backend} can't be used with a {name} ({first_line(error)}); {install}use attention=sdpa"
        ) from error


def _has_dispatcher(network: Any) -> bool:
    """Return whether the network uses diffusers' attention dispatcher; classic UNets ignore `set_attention_backend`."""
    processors = (getattr(module, "processor", None) for module in network.modules())
    return any(hasattr(processor, "_attention_backend") for processor in processors)


class CompiledCode:
    """`torch.compile` cache in a folder or at a URL, written by one process and read by the others.

    The cache contains one file per combination of device model, library versions, weights, settings and batch size.
    Damaged files are ignored and rewritten.

    Raises:
        UserError: the location is not trusted; see `core.trust`.
    """

    def __init__(self, settings: GeneratorSettings, device: str, weights: str) -> None:
        import diffusers
        import torch

        root = settings.compile_cache
        assert root is not None
        require_trust(COMPILED + root, "synthesis.generator.compile_cache: ")
        values = settings.model_dump(mode="json", exclude={"pipeline", "loras", "vae", "batch_size", *MACHINE})
        on_gpu = device.startswith("cuda")
        model = torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability()
        versions = torch.__version__, diffusers.__version__, platform.python_version(), platform.machine()
        key = json.dumps([versions, model, weights, values], sort_keys=True)
        self._folder = storage.join(root, hashlib.sha256(key.encode()).hexdigest()[:16])
        self._sizes: set[int] = set()

    @contextmanager
    def shared(self, size: int) -> Iterator[None]:
        """Load compiled code before the first batch of `size` images, and store it afterwards if it has changed."""
        import torch
        from torch._dynamo.utils import counters

        if size in self._sizes:
            yield
            return
        url, before = storage.join(self._folder, f"{size}.compiled"), counters["inductor"][MISSES]
        try:
            data = storage.read_bytes(url)
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                raise ValueError("it is damaged")
            torch.compiler.load_cache_artifacts(data[32:])
        except storage.MissingError:
            pass
        except Exception as error:  # compile without the cache
            print_message(f"ignoring {url}: {first_line(error)}")
        yield
        self._sizes.add(size)
        if counters["inductor"][MISSES] > before and (artifacts := torch.compiler.save_cache_artifacts()):
            try:
                storage.write_bytes(url, hashlib.sha256(artifacts[0]).digest() + artifacts[0])
            except (OSError, UserError) as error:
                print_message(f"{url} could not be written: {first_line(error)}")
