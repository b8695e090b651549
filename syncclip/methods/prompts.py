"""Creating the learnable vectors: how many, in how many blocks, and where they start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from syncclip.core.settings import UserError

INITIAL_STD = 0.02
DEFAULT_DEPTH = 9  # of the published settings, on towers of 12 blocks


def deep_prompts(depth: int, tokens: int, width: int, first: Tensor | None = None) -> nn.ParameterList:
    """One (tokens, width) prompt per block, initialised from torch's global generator.

    Args:
        first: (tokens, width) start of the first block's prompt, such as the embeddings of words.
    """
    prompts = [INITIAL_STD * torch.randn(tokens, width) for _ in range(depth)]
    if first is not None:
        assert first.shape == prompts[0].shape, (first.shape, prompts[0].shape)
        prompts[0] = first.detach().to(prompts[0], copy=True)  # to the device and dtype of the others
    return nn.ParameterList(nn.Parameter(prompt) for prompt in prompts)


def checked_depth(key: str, depth: int | None, layers: int, default: int = DEFAULT_DEPTH) -> int:
    """The number of prompted blocks; None: the default, or all of a tower that has fewer.

    Raises:
        UserError: the tower has fewer blocks.
    """
    if depth is None:
        return min(default, layers)
    if depth > layers:
        raise UserError(f"{key}: {depth} blocks are to have prompts, but this tower has {layers}; use at most {layers}")
    return depth
