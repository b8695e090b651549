"""Learnable prompt vectors: depth, initialisation, and the context of CoOp and its variants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.core.settings import Position, UserError
from syncclip.core.text import readable_name
from syncclip.methods.settings import ContextSettings

INITIAL_STD = 0.02
DEFAULT_DEPTH = 9  # published setting for towers with 12 blocks
RANDOM_TOKENS = 16  # published setting for a randomly initialised context


def deep_prompts(depth: int, tokens: int, width: int, first: Tensor | None = None) -> nn.ParameterList:
    """Create one prompt (tokens, width) per block, initialised with torch's global random generator.

    Args:
        first: initial value (tokens, width) of the first block's prompt, such as word embeddings; random by default.
    """
    prompts = [INITIAL_STD * torch.randn(tokens, width) for _ in range(depth)]
    if first is not None:
        assert first.shape == prompts[0].shape, (first.shape, prompts[0].shape)
        prompts[0] = first.detach().to(prompts[0], copy=True)  # to the device and dtype of the other prompts
    return nn.ParameterList(nn.Parameter(prompt) for prompt in prompts)


def checked_depth(key: str, depth: int | None, layers: int, default: int = DEFAULT_DEPTH) -> int:
    """Return the number of prompted blocks: `depth`, or a default capped at the tower's number of blocks.

    Raises:
        UserError: the tower has fewer than `depth` blocks.
    """
    if depth is None:
        return min(default, layers)
    if depth > layers:
        raise UserError(f"{key} is {depth}, but the tower has {layers} blocks; use at most {layers}")
    return depth


def context_tokens(
    clip: PromptedClip, classnames: Sequence[str], settings: ContextSettings, position: Position = "end"
) -> PromptTokens:
    """Return the prompts of all classes, with slots for context vectors.

    Raises:
        TextTooLongError: a prompt, including its slots, exceeds the context length of the CLIP model.
    """
    n = settings.text_tokens
    if n is None and not settings.initial_words:
        room = clip.context - int(clip.lengths([f"{readable_name(name)}." for name in classnames]).max())
        n = max(1, min(RANDOM_TOKENS, room))
    return clip.text_context(classnames, settings.initial_words, None if settings.initial_words else n, position)
