"""Mistakes in MaPLe."""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.nn.functional import linear, normalize

from syncclip.methods.maple import Maple
from tests.methods import parity, vision_methods


def deep_projections_missing(patch: pytest.MonkeyPatch) -> None:
    """Only the input of the vision tower gets prompts."""
    patch.setattr(Maple, "vision_prompts", lambda s: [s.projections[0](s.text_prompts[0])])


def one_projection_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Maple, "vision_prompts", lambda s: [s.projections[0](prompt) for prompt in s.text_prompts])


def projections_of_the_wrong_block(patch: pytest.MonkeyPatch) -> None:
    right = Maple.vision_prompts
    patch.setattr(Maple, "vision_prompts", lambda s: (found := right(s))[:1] + found[:0:-1])


def projection_without_bias(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Maple,
        "vision_prompts",
        lambda s: [linear(prompt, to.weight) for to, prompt in zip(s.projections, s.text_prompts, strict=True)],
    )


def towers_decoupled(patch: pytest.MonkeyPatch) -> None:
    """Text prompts learn nothing from the vision tower: the loss is the same, only gradients tell."""
    patch.setattr(
        Maple,
        "vision_prompts",
        lambda s: [to(prompt.detach()) for to, prompt in zip(s.projections, s.text_prompts, strict=True)],
    )


def order_of_deep_texts(patch: pytest.MonkeyPatch) -> None:
    """Deeper blocks of the text tower get each other's prompts."""

    def wrong(method: Maple) -> Tensor:
        first, *deeper = method.text_prompts
        return normalize(method.clip.encode_text(method.tokens, [first, *reversed(deeper)]), dim=-1)

    patch.setattr(Maple, "text_features", wrong)


def check(_: pytest.MonkeyPatch) -> None:
    vision_methods.check(parity.load("maple"))
