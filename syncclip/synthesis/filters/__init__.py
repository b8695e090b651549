"""Filters: a batch of generated images comes in, a score and a decision for each go out; one file a filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated

from pydantic import Field

from syncclip.clip.backbone import BackboneSettings
from syncclip.storage.urls import home_path
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult
from syncclip.synthesis.filters.blank import Blank, BlankSettings
from syncclip.synthesis.filters.clip import FrozenClip
from syncclip.synthesis.filters.clip_head import ClipHead, ClipHeadSettings
from syncclip.synthesis.filters.clip_score import (
    ClipMargin,
    ClipMarginSettings,
    ClipScore,
    ClipScoreSettings,
    ClipSimilarity,
    ClipSimilaritySettings,
)
from syncclip.synthesis.filters.duplicates import (
    ClipDuplicate,
    ClipDuplicateSettings,
    Duplicate,
    DuplicateSettings,
    check_scope,
)
from syncclip.synthesis.filters.leakage import Leakage, LeakageSettings
from syncclip.synthesis.filters.safety import Safety, SafetySettings

AnyFilterSettings = (
    BlankSettings
    | SafetySettings
    | ClipScoreSettings
    | ClipSimilaritySettings
    | ClipMarginSettings
    | ClipHeadSettings
    | DuplicateSettings
    | ClipDuplicateSettings
    | LeakageSettings
)
ClipFilterSettings = (
    ClipScoreSettings
    | ClipSimilaritySettings
    | ClipMarginSettings
    | ClipHeadSettings
    | ClipDuplicateSettings
    | LeakageSettings
)
"""Those that ask a CLIP, their `backbone`."""
FilterSettings = Annotated[AnyFilterSettings, Field(discriminator="name")]


def with_absolute_paths(settings: Sequence[AnyFilterSettings]) -> tuple[AnyFilterSettings, ...]:
    """The same filters with absolute paths of the models that they name, for processes that run in another folder."""
    found: list[AnyFilterSettings] = []
    for one in settings:
        update: dict[str, object] = {}
        if isinstance(one, SafetySettings) and one.checker:
            update["checker"] = str(home_path(one.checker).absolute())
        if isinstance(one, ClipFilterSettings) and one.backbone is not None:
            update["backbone"] = one.backbone.placed()
        found.append(one.model_copy(update=update))
    return tuple(found)


def build_filters(
    settings: Sequence[AnyFilterSettings], prompts: Sequence[str], device: str = "cpu", url: str = ""
) -> list[Filter]:
    """The filters in the order in which they score.

    Args:
        settings: from a plan.
        prompts: one sentence for each class.
        device: torch device of their models.
        url: folder or URL of the set, where what the filters need is stored.

    Raises:
        UserError: something that a filter needs is missing or doesn't fit.
    """

    @cache
    def clip(backbone: BackboneSettings | None) -> FrozenClip:
        return FrozenClip(backbone or BackboneSettings(), prompts, device)

    return [_build(one, clip, device, url) for one in settings]


def _build(
    one: AnyFilterSettings, clip: Callable[[BackboneSettings | None], FrozenClip], device: str, url: str
) -> Filter:
    match one:
        case BlankSettings():
            return Blank(one)
        case SafetySettings():
            return Safety(one, device)
        case ClipScoreSettings():
            return ClipScore(one, clip(one.backbone))
        case ClipSimilaritySettings():
            return ClipSimilarity(one, clip(one.backbone))
        case ClipMarginSettings():
            return ClipMargin(one, clip(one.backbone))
        case ClipHeadSettings():
            return ClipHead(one, clip(one.backbone), url)
        case DuplicateSettings():
            return Duplicate(one)
        case ClipDuplicateSettings():
            return ClipDuplicate(one, clip(one.backbone))
        case LeakageSettings():
            return Leakage(one, clip(one.backbone), url)


__all__ = [
    "AnyFilterSettings",
    "BlankSettings",
    "ClipFilterSettings",
    "ClipHeadSettings",
    "Filter",
    "FilterBatch",
    "FilterResult",
    "FilterSettings",
    "FrozenClip",
    "build_filters",
    "check_scope",
    "with_absolute_paths",
]
