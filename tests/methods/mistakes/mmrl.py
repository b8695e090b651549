"""Mistakes in MMRL."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from syncclip.clip.inserted import Inserted
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.text_tower import TextTower
from syncclip.clip.tokens import PromptTokens
from syncclip.clip.vision_tower import PlainVision
from syncclip.methods import mmrl
from syncclip.methods.base import Method
from syncclip.methods.mmrl import Mmrl
from tests.methods import parity, test_mmrl
from tests.methods.mistakes import weigh
from tests.methods.variants import Variant


def tokens_at_the_end(patch: pytest.MonkeyPatch) -> None:
    """The tokens stand behind what they enter, as prompts among the patches do."""

    def wrong(inserted: Inserted, x: Tensor, block: int) -> Tensor:
        if block not in inserted.vectors:
            return x
        kept = x if block == min(inserted.vectors) else x[..., : -inserted.count, :]
        return torch.cat([kept, inserted.vectors[block].expand(*x.shape[:-2], -1, -1)], dim=-2)

    patch.setattr(Inserted, "enter", wrong)


def tokens_before_the_first(patch: pytest.MonkeyPatch) -> None:
    right = Inserted.enter

    def wrong(inserted: Inserted, x: Tensor, block: int) -> Tensor:
        entered = right(inserted, x, block)
        return entered if entered is x else torch.cat([entered[..., 1:2, :], x[..., :1, :], entered[..., 2:, :]], -2)

    patch.setattr(Inserted, "enter", wrong)


def one_block_later(patch: pytest.MonkeyPatch) -> None:
    """Blocks are counted from 0."""
    right = Mmrl.__init__

    def wrong(method: Mmrl, *asked: object) -> None:
        right(method, *asked)  # type: ignore[arg-type]
        method.layers = [layer - 1 for layer in method.layers]

    patch.setattr(Mmrl, "__init__", wrong)


def maps_of_the_other_blocks(patch: pytest.MonkeyPatch) -> None:
    right = Mmrl._inserted
    patch.setattr(Mmrl, "_inserted", lambda s, tokens, maps: right(s, tokens, [*reversed(maps)]))  # type: ignore[arg-type]


def end_not_moved(patch: pytest.MonkeyPatch) -> None:
    """The text feature is read where the sentence ends without the tokens."""
    right = PromptedClip.encode_text

    def wrong(clip: PromptedClip, tokens: PromptTokens, *others: Any, inserted: Inserted | None = None) -> Tensor:
        if inserted is not None:
            patch.setattr(tokens, "read", tokens.read - inserted.count)
        return right(clip, tokens, *others, inserted=inserted)

    patch.setattr(PromptedClip, "encode_text", wrong)


def end_sees_too_little(patch: pytest.MonkeyPatch) -> None:
    """The token that is read may see no more tokens than without those inserted."""
    right = TextTower.mask

    def wrong(tower: TextTower, rows: slice | Tensor, length: int) -> Tensor | None:
        return right(tower, rows if isinstance(rows, slice) else rows - 2, length)

    patch.setattr(TextTower, "mask", wrong)


def mean_before_the_norm(patch: pytest.MonkeyPatch) -> None:
    right = PlainVision.last_norm
    patch.setattr(PlainVision, "last_norm", lambda s, x: right(s, x.mean(dim=1, keepdim=True)))


def frozen_projection(patch: pytest.MonkeyPatch) -> None:
    """The tokens' outputs pass the class token's projection."""
    right = Mmrl.both_features

    def wrong(method: Mmrl, images: Tensor, *_: Any) -> Tensor:
        encoded = method.clip.encode_images(images, inserted=method._inserted(method.shared_tokens, method.to_vision))
        outputs = encoded[:, -len(method.projection) :] @ method.clip.model.visual.proj
        return torch.stack([right(method, images)[:, 0], outputs], dim=1)

    patch.setattr(Mmrl, "both_features", wrong)


def tokens_kept_near(patch: pytest.MonkeyPatch) -> None:
    """The feature of the learned tokens is kept near the frozen one, instead of the class token's."""
    right = Mmrl.terms

    def wrong(method: Mmrl, batch: parity.Batch) -> dict[str, Tensor]:
        others, frozen_image = method.both_features(batch.images)[:, 1], method.clip.encode_images(batch.images)
        return {**right(method, batch), "image": 1 - cosine_similarity(others, frozen_image).mean()}

    patch.setattr(Mmrl, "terms", wrong)


def swapped_weights(patch: pytest.MonkeyPatch) -> None:
    swapped = {"classification": "representation", "representation": "classification", "image": "image", "text": "text"}
    weigh(patch, Mmrl, lambda weights: {name: weights[other] for name, other in swapped.items()})


def half_of_the_distance(patch: pytest.MonkeyPatch) -> None:
    weigh(patch, Mmrl, lambda weights: {**weights, "text": weights["text"] / 2})


def detached_texts(patch: pytest.MonkeyPatch) -> None:
    """The distance is reported, but pulls at nothing."""
    right = mmrl.cosine_similarity
    patch.setattr(mmrl, "cosine_similarity", lambda a, b: right(a.detach(), b))


def fused_for_novel_classes(patch: pytest.MonkeyPatch) -> None:
    right = Mmrl.logits_given

    def wrong(method: Mmrl, text: Tensor, images: Tensor, domains: Tensor | None = None) -> Tensor:
        known, method.known = method.known, len(text)
        found = right(method, text, images, domains)
        method.known = known
        return found

    patch.setattr(Mmrl, "logits_given", wrong)


def class_token_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Mmrl, "logits_given", Method.logits_given)


def another_template(patch: pytest.MonkeyPatch) -> None:
    right = mmrl.fill
    patch.setattr(mmrl, "fill", lambda template, names: right("{}.", names))


def check(_: pytest.MonkeyPatch) -> None:
    test_mmrl.check(Variant("mmrl", "main"))
