"""The number format that frozen towers compute in; prompts, their gradients and losses stay in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from syncclip.settings import UserError

Precision = Literal["fp32", "bf16", "fp16"]


def autocast(precision: Precision, device: torch.device, prompts: Sequence[Tensor]) -> torch.autocast:
    """The context in which a tower runs.

    bf16 has the range of float32, so nothing overflows or vanishes. fp16 has not: it serves GPUs on which bf16 is slow,
    and only where no gradient passes the tower, as many of a prompt's gradients are so small that they would be zero.

    Args:
        prompts: what the tower shall learn; without any, no gradient passes it.

    Raises:
        UserError: fp16 on another device than a GPU, or for learning.
    """
    if precision == "fp16":
        if device.type != "cuda":
            raise UserError(f"backbone.precision: fp16 is for GPUs, and this is a {device.type}; use bf16 or fp32")
        if torch.is_grad_enabled() and any(vectors.requires_grad for vectors in prompts):
            raise UserError(
                "backbone.precision: in fp16 the small gradients of prompts vanish inside the towers; learn in bf16 or "
                "fp32, and keep fp16 for evaluation"
            )
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def float32(features: Tensor, precision: Precision) -> Tensor:
    """Features (*, D) in float32.

    Raises:
        UserError: fp16 has overflown, as it may with weights that were made in bf16.
    """
    if precision == "fp16" and not features.isfinite().all():
        raise UserError("backbone.precision: these weights give numbers too large for fp16; use bf16 or fp32")
    return features.float()
