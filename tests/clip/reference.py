"""open_clip's own forward pass with prompts inserted by hooks: the reference for `PromptedClip`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from syncclip.clip.prompted import PromptedClip


@contextmanager
def replaced_inputs(modules: Iterable[nn.Module], changes: Iterable[Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Apply a change to the input of each module."""

    def hook(change: Callable[[Tensor], Tensor]) -> Any:
        return lambda _, inputs: (change(inputs[0]), *inputs[1:])

    hooks = [module.register_forward_pre_hook(hook(change)) for module, change in zip(modules, changes, strict=False)]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def reference_images(model: Any, images: Tensor, prompts: list[Tensor]) -> Tensor:
    """Image features with prompts before the patches, where `PromptedClip` appends them.

    They have no position, so the features are equal. Eva does not rotate its first `num_prefix_tokens` tokens, which
    here include the prompts.
    """
    visual, n = model.visual, prompts[0].shape[-2]
    trunk = getattr(visual, "trunk", None)
    norm, blocks = (visual.ln_pre, visual.transformer.resblocks) if trunk is None else (trunk.norm_pre, trunk.blocks)
    first = 1 if trunk is None else trunk.num_prefix_tokens

    def insert(x: Tensor, vectors: Tensor, replaced: int = n) -> Tensor:
        return torch.cat([x[:, :first], vectors.expand(len(x), -1, -1), x[:, first + replaced :]], dim=1)

    changes = [
        partial(insert, vectors=prompts[0], replaced=0),
        *(partial(insert, vectors=each) for each in prompts[1:]),
    ]
    eva_attentions = [block.attn for block in blocks if hasattr(block.attn, "num_prefix_tokens")]
    removal = blocks[-1].register_forward_hook(lambda _, inputs, x: insert(x, x[:, :0]))
    for attention in eva_attentions:
        attention.num_prefix_tokens += n
    with replaced_inputs([norm, *blocks[1:]], changes):
        features: Tensor = model.encode_image(images, normalize=False)
    for attention in eva_attentions:
        attention.num_prefix_tokens -= n
    removal.remove()
    return features


def reference_texts(clip: PromptedClip, sentences: list[str], start: int, prompts: Sequence[Tensor | None]) -> Tensor:
    """Text features over the full context, with prompts replacing the first words in the input of each block."""
    tower = getattr(clip.model, "text", clip.model)
    assert prompts[0] is not None
    n = prompts[0].shape[-2]

    def replace(x: Tensor, vectors: Tensor | None) -> Tensor:
        if vectors is None:
            return x
        return torch.cat([x[:, :start], vectors.expand(len(x), -1, -1), x[:, start + n :]], dim=1)

    first = prompts[0] + tower.positional_embedding[start : start + n]
    changes = [partial(replace, vectors=vectors) for vectors in [first, *prompts[1:]]]
    with replaced_inputs(tower.transformer.resblocks, changes):
        features: Tensor = clip.model.encode_text(clip.backbone.tokenizer(sentences), normalize=False)
    return features
