"""Mistakes in CLIP-LoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional as F

from syncclip.clip.parts import BlockPart
from syncclip.methods.adapted import Adapted
from syncclip.methods.cliplora import ClipLora, LowRank
from syncclip.methods.settings import ClipLoraSettings
from tests.methods import test_cliplora
from tests.methods.mistakes import asking
from tests.methods.variants import Variant

DROP = test_cliplora.drop
OTHERWISE: list[Callable[[Any], Any]] = []
"""The planted replacements of dropout; the last one counts."""


def alpha_over_the_rank(patch: pytest.MonkeyPatch) -> None:
    right = LowRank.__init__

    def wrong(part: LowRank, width: int, rank: int, settings: Any) -> None:
        right(part, width, rank, settings)
        part.scale = settings.alpha / rank

    patch.setattr(LowRank, "__init__", wrong)


def query_left_alone(patch: pytest.MonkeyPatch) -> None:
    right = LowRank.linear

    def wrong(part: LowRank, name: Any, *given: Tensor) -> Tensor:
        return BlockPart.linear(part, name, *given) if name == "q" else right(part, name, *given)

    patch.setattr(LowRank, "linear", wrong)


def update_after_the_bias_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The frozen bias is lost where there is an update."""

    def wrong(part: LowRank, name: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight) + part.update(name, x) if name in part.a else F.linear(x, weight, bias)

    patch.setattr(LowRank, "linear", wrong)


def text_left_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Adapted, "text_features", lambda s, classes=slice(None): F.normalize(
        s.clip.encode_text(s.texts[classes]), dim=-1
    ))  # fmt: skip


def drop_otherwise(method: ClipLora, variant: Variant, patch: pytest.MonkeyPatch) -> None:
    DROP(method, variant, patch)
    patch.setattr(LowRank, "dropped", OTHERWISE[-1](LowRank.dropped))


def mask_of_the_query_for_all(patch: pytest.MonkeyPatch) -> None:
    """Query, key and value share a mask; see `drop_otherwise`."""
    OTHERWISE.append(lambda right: lambda part, name, x: right(part, "q", x))
    patch.setattr(test_cliplora, "drop", drop_otherwise)


def masks_without_rescaling(patch: pytest.MonkeyPatch) -> None:
    OTHERWISE.append(lambda right: lambda part, name, x: right(part, name, x) * (1 - part.dropout))
    patch.setattr(test_cliplora, "drop", drop_otherwise)


def check(patch: pytest.MonkeyPatch) -> None:
    for variant in (Variant("cliplora", "both"), Variant("cliplora", "masked")):
        test_cliplora.check_features(variant)
        test_cliplora.check_training(variant, patch)


OPTIMISERS = [
    asking(ClipLoraSettings, **change) for change in ({"weight_decay": 0.0}, {"last_rate": 0.0}, {"by_step": False})
]
