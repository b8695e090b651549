"""What `synthesis.generator.speed` does to a loaded pipeline, and compiled code that processes share."""

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
from syncclip.runtime.progress import say
from syncclip.synthesis.generators.arguments import denoiser
from syncclip.synthesis.generators.settings import MACHINE, GeneratorSettings

LARGE = re.compile(r"attn|\bff|mlp|blocks\.\d+\.proj_out")
"""In the names of layers that see all tokens of a batch. Others see a row an image: too few for int8 on a GPU."""

MISSES = "fxgraph_cache_miss"
"""Torch's counter of graphs that a process has compiled, not read."""

STEP_CACHE = 0.05
"""Where a step changes what the denoiser's first block makes by less than this share, the others' is kept."""


def hasten(pipeline: Any, settings: GeneratorSettings, device: str) -> None:
    """Do what a speed other than `exact` means beside type and compilation, before the pipeline is on its device.

    What a family has no form of is left out, and told once a process.

    Raises:
        UserError: torchao is missing, or there is no denoiser.
    """
    import torch
    from diffusers import FirstBlockCacheConfig

    network, name = denoiser(pipeline), type(pipeline).__name__
    if network is None:
        raise UserError(f"synthesis.generator.speed: a {name} has no single denoiser to make faster; use speed=exact")
    for part in (getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)):
        if part is not None and all(weight.dim() < 5 for weight in part.parameters()):
            part.to(memory_format=torch.channels_last)
    try:
        network.fuse_qkv_projections()
    except (AttributeError, ValueError):
        _tell(name, "fused projections")
    if settings.speed != "max":
        return
    _quantize(network, device)
    calls = inspect.unwrap(type(pipeline).__call__).__code__.co_names
    if settings.guide is None and hasattr(network, "enable_cache") and "cache_context" in calls:
        network.enable_cache(FirstBlockCacheConfig(threshold=STEP_CACHE))
    else:
        _tell(name, "step cache" if settings.guide is None else "step cache beside a guide")


@functools.cache
def _tell(name: str, what: str) -> None:
    say(f"synthesis.generator.speed: a {name} has no {what}, so that is left out")


def _quantize(network: Any, device: str) -> None:
    """Let large layers multiply in int8: weights by their rows, inputs token by token."""
    if importlib.util.find_spec("torchao") is None:
        raise UserError(f"synthesis.generator.speed: max needs torchao; run `{install_command('fast')}`, or use fast")
    from torch.nn import Linear
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    def is_large(module: Any, name: str) -> bool:
        found = isinstance(module, Linear) and LARGE.search(name) is not None and "norm" not in name
        return found and module.in_features % 16 == module.out_features % 16 == 0

    quantize_(network, Int8DynamicActivationInt8WeightConfig(), filter_fn=is_large, device=device)


class CompiledCode:
    """Code that `torch.compile` made, in a folder or at a URL: one process compiles, the others read.

    There is a file for each kind of device, versions, weights, settings and size of a batch. In it torch looks for code
    by all that it depends on: what is foreign is not used. What is damaged is left out, and written anew.

    Raises:
        UserError: the user has not named the place; see `core.trust`.
    """

    def __init__(self, settings: GeneratorSettings, device: str, weights: str) -> None:
        import diffusers
        import torch

        place = settings.compile_cache
        assert place is not None
        require_trust(COMPILED + place, "synthesis.generator.compile_cache: ")
        told = settings.model_dump(mode="json", exclude={"pipeline", "loras", "vae", "batch_size", *MACHINE})
        on_gpu = device.startswith("cuda")
        kind = torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability()
        versions = torch.__version__, diffusers.__version__, platform.python_version(), platform.machine()
        key = json.dumps([versions, kind, weights, told], sort_keys=True)
        self._folder = storage.join(place, hashlib.sha256(key.encode()).hexdigest()[:16])
        self._sizes: set[int] = set()

    @contextmanager
    def shared(self, size: int) -> Iterator[None]:
        """Around the first batch of a size: code is read before, and written after it if any was compiled."""
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
        except Exception as error:  # whatever torch or a store says of it, code can be compiled here
            say(f"{url} is left out: {first_line(error)}")
        yield
        self._sizes.add(size)
        if counters["inductor"][MISSES] > before and (made := torch.compiler.save_cache_artifacts()):
            try:
                storage.write_bytes(url, hashlib.sha256(made[0]).digest() + made[0])
            except (OSError, UserError) as error:
                say(f"{url} is not written: {first_line(error)}")
