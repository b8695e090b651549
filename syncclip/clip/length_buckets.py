"""Batches of texts of similar length, which reduce padding in the text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from syncclip.clip.blocks import Prompts, of_each_class
from syncclip.clip.tokens import PromptTokens

LENGTH_STEP = 3
"""Width of a length bucket in tokens; the texts of a bucket are encoded together."""
SMALL_GROUP = 32
"""Minimum number of texts in a group; a smaller group is merged with the next group of longer texts."""


def of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group the indices of texts by length, shortest first; merge each small group with the next longer group."""
    groups: list[list[int]] = [[]]
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    for _, rows in groupby(by_length, key=lambda row: lengths[row] // LENGTH_STEP):
        if len(groups[-1]) >= SMALL_GROUP:
            groups.append([])
        groups[-1].extend(rows)
    return groups


def in_groups(
    encode: Callable[[PromptTokens, list[Tensor | None]], Tensor],
    tokens: PromptTokens,
    prompts: Prompts,
    groups: list[list[int]],
) -> Tensor:
    """Encode groups of texts sequentially, and return the features (C, D) or (B, C, D) in the original order."""
    features = []
    for rows in groups:
        own = [each[..., rows, :, :] if each is not None and of_each_class(each) else each for each in prompts]
        features.append(encode(tokens.group(rows), own))
    order = torch.tensor([row for rows in groups for row in rows], device=tokens.read.device)
    return torch.cat(features, dim=-2).index_select(-2, order.argsort())
