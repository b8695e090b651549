"""Mistakes in Tip-Adapter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.methods import tip
from syncclip.methods.settings import Optimisation, TipSettings
from syncclip.methods.tip import Tip
from tests.methods import parity, test_tip
from tests.methods.mistakes import asking


def mean_of_raw_texts(patch: pytest.MonkeyPatch) -> None:
    """Each template counts by the length of its feature."""
    right = tip.FrozenTexts
    patch.setattr(tip, "FrozenTexts", lambda *given, directions: right(*given))


def normalised_views(patch: pytest.MonkeyPatch) -> None:
    """Each view counts the same, whatever its feature's length."""
    right = Tip.prepare

    def wrong(method: Tip, views: Iterable[Iterable[parity.Batch]]) -> None:
        with pytest.MonkeyPatch.context() as inner:
            encode = method.clip.encode_images
            inner.setattr(method.clip, "encode_images", lambda images: normalize(encode(images), dim=-1))
            right(method, views)

    patch.setattr(Tip, "prepare", wrong)


def raw_keys(patch: pytest.MonkeyPatch) -> None:
    """Keys have the length of their features' mean."""
    right = Tip.prepare

    def wrong(method: Tip, views: Iterable[Iterable[parity.Batch]]) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(tip, "normalize", lambda rows, dim: rows / method.prepares)
            right(method, views)

    patch.setattr(Tip, "prepare", wrong)


def keys_of_the_first_view(patch: pytest.MonkeyPatch) -> None:
    right = Tip.prepare
    patch.setattr(Tip, "prepare", lambda method, views: right(method, list(views)[:1]))


def no_exponential(patch: pytest.MonkeyPatch) -> None:
    """What is near counts by its cosine."""
    right = torch.exp
    patch.setattr(torch, "exp", lambda x: 1 + x if x.dim() else right(x))


def keys_at_length_1(patch: pytest.MonkeyPatch) -> None:
    """Trained keys are normalised where they are used."""
    right = Tip.cache_scores

    def wrong(method: Tip, images: Tensor, count: int, beta: float) -> Tensor:
        with pytest.MonkeyPatch.context() as inner:
            inner.setitem(method._parameters, "keys", normalize(method.keys, dim=-1))  # type: ignore[arg-type]
            return right(method, images, count, beta)

    patch.setattr(Tip, "cache_scores", wrong)


def grid_with_its_end(patch: pytest.MonkeyPatch) -> None:
    right = tip.search

    def wrong(method: Tip, features: Tensor, labels: Tensor, scale: Any, steps: Any) -> tip.Search:
        reached = [0.1 + (end - 0.1) * count / (count - 1) for end, count in zip(scale, steps, strict=True)]
        return right(method, features, labels, tuple(reached), steps)  # type: ignore[arg-type]

    patch.setattr(test_tip, "search", wrong)


def last_of_equals(patch: pytest.MonkeyPatch) -> None:
    right = tip.search

    def wrong(method: Tip, features: Tensor, labels: Tensor, scale: Any, steps: Any) -> tip.Search:
        best = right(method, features, labels, scale, steps)
        betas, alphas = ([0.1 + i * (end - 0.1) / n for i in range(n)] for end, n in zip(scale, steps, strict=True))
        beta, alpha = (best.accuracy == best.accuracy.max()).nonzero()[-1].tolist()
        return best._replace(alpha=alphas[alpha], beta=betas[beta])

    patch.setattr(test_tip, "search", wrong)


def check_cache(_: pytest.MonkeyPatch) -> None:
    test_tip.check_cache("main")


def check_finetuning(_: pytest.MonkeyPatch) -> None:
    test_tip.check_finetuning("main")


FINETUNED = (keys_at_length_1, asking(TipSettings, eps=Optimisation().eps), asking(TipSettings, weight_decay=0.0))
CACHED = (mean_of_raw_texts, normalised_views, raw_keys, keys_of_the_first_view, grid_with_its_end, last_of_equals)
CASES = [(plant, check_cache) for plant in (*CACHED, no_exponential)]
CASES += [(plant, check_finetuning) for plant in (*FINETUNED, no_exponential)]
