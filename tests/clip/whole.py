"""The model's own forward pass, with prompts put among its tokens by hooks: what ours is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from syncclip.clip.prompted import PromptedClip


@contextmanager
def changed(blocks: Iterable[nn.Module], changes: Iterable[Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """What enters each of these modules is changed first."""

    def before(change: Callable[[Tensor], Tensor]) -> Any:
        return lambda _, inputs: (change(inputs[0]), *inputs[1:])

    hooks = [module.register_forward_pre_hook(before(change)) for module, change in zip(blocks, changes, strict=False)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def whole_images(model: Any, images: Tensor, prompts: list[Tensor]) -> Tensor:
    """The model's own pass with prompts before the patches, where ours are behind them.

    Either way they have no position, so the feature is the same. Eva turns all tokens but so many first ones; here the
    prompts are counted among these.
    """
    visual, n = model.visual, prompts[0].shape[-2]
    trunk = getattr(visual, "trunk", None)
    norm, blocks = (visual.ln_pre, visual.transformer.resblocks) if trunk is None else (trunk.norm_pre, trunk.blocks)
    first = 1 if trunk is None else trunk.num_prefix_tokens

    def put(x: Tensor, vectors: Tensor, there: int = n) -> Tensor:
        return torch.cat([x[:, :first], vectors.expand(len(x), -1, -1), x[:, first + there :]], dim=1)

    changes = [partial(put, vectors=prompts[0], there=0), *(partial(put, vectors=vectors) for vectors in prompts[1:])]
    still = [block.attn for block in blocks if hasattr(block.attn, "num_prefix_tokens")]
    taken_out = blocks[-1].register_forward_hook(lambda _, inputs, x: put(x, x[:, :0]))
    for attention in still:
        attention.num_prefix_tokens += n
    with changed([norm, *blocks[1:]], changes):
        features: Tensor = model.encode_image(images, normalize=False)
    for attention in still:
        attention.num_prefix_tokens -= n
    taken_out.remove()
    return features


def whole_texts(clip: PromptedClip, sentences: list[str], start: int, prompts: Sequence[Tensor | None]) -> Tensor:
    """The model's own pass over the whole context, prompts put over the first words of each block's input."""
    tower = getattr(clip.model, "text", clip.model)
    assert prompts[0] is not None
    n = prompts[0].shape[-2]

    def put(x: Tensor, vectors: Tensor | None) -> Tensor:
        if vectors is None:
            return x
        return torch.cat([x[:, :start], vectors.expand(len(x), -1, -1), x[:, start + n :]], dim=1)

    first = prompts[0] + tower.positional_embedding[start : start + n]
    changes = [partial(put, vectors=vectors) for vectors in [first, *prompts[1:]]]
    with changed(tower.transformer.resblocks, changes):
        features: Tensor = clip.model.encode_text(clip.backbone.tokenizer(sentences), normalize=False)
    return features
