"""Which attention a denoiser runs: PyTorch's own, or that of xformers."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from syncclip.settings import UserError
from syncclip.synthesis.generators.calling import denoiser
from syncclip.synthesis.hub import first_line

KEY = "synthesis.generator.attention"


def xformers_installed() -> bool:
    """Whether xformers could be imported; importing it takes seconds and warns."""
    return importlib.util.find_spec("xformers") is not None


def set_attention(pipeline: Any, attention: Literal["sdpa", "xformers"], device: str) -> None:
    """Let the denoiser of a loaded pipeline use this attention.

    Raises:
        UserError: xformers is not installed, there is no GPU, or it doesn't know this denoiser.
    """
    if attention == "xformers":
        if not xformers_installed():
            raise UserError(f"{KEY}: xformers is not installed; pip install 'syncclip[gpu]', or use attention=sdpa")
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
