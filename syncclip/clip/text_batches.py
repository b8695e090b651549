"""Batches of texts of similar length, so that the text tower encodes little padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from syncclip.clip.blocks import Prompts, of_each_class
from syncclip.clip.tokens import PromptTokens

LENGTH_STEP = 3
"""Width, in tokens, of the length ranges in which texts are encoded together."""
SMALL_GROUP = 32
"""Minimum number of texts in a group; a smaller group is merged with the group of the next longer texts."""


def of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows of similar length, shortest first; small groups are merged with longer ones."""
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
    """Encode groups of texts one after another, and return features (C, D) or (B, C, D) in the original order."""
    features = []
    for rows in groups:
        own = [each[..., rows, :, :] if each is not None and of_each_class(each) else each for each in prompts]
        features.append(encode(tokens.group(rows), own))
    order = torch.tensor([row for rows in groups for row in rows], device=tokens.read.device)
    return torch.cat(features, dim=-2).index_select(-2, order.argsort())
