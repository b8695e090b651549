"""Filters for generated images."""

from __future__ import annotations

from collections.abc import Sequence
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
"""Settings of filters that use a CLIP `backbone`."""
FilterSettings = Annotated[AnyFilterSettings, Field(discriminator="name")]


def with_absolute_paths(settings: Sequence[AnyFilterSettings]) -> tuple[AnyFilterSettings, ...]:
    """Return the settings with absolute model paths, for processes with a different working directory."""
    placed: list[AnyFilterSettings] = []
    for entry in settings:
        if isinstance(entry, SafetySettings) and entry.checker:
            entry = entry.model_copy(update={"checker": str(home_path(entry.checker).absolute())})
        elif isinstance(entry, ClipFilterSettings) and entry.backbone is not None:
            entry = entry.model_copy(update={"backbone": entry.backbone.placed()})
        placed.append(entry)
    return tuple(placed)


def build_filters(
    settings: Sequence[AnyFilterSettings], prompts: Sequence[str], device: str = "cpu", url: str = ""
) -> list[Filter]:
    """Build the filters; filters with the same backbone share one CLIP model.

    Args:
        prompts: one prompt per class.
        device: torch device of the models.
        url: folder or URL of the synthetic dataset, which contains the filter assets.

    Raises:
        UserError: an asset is missing, damaged or incompatible.
    """

    @cache
    def clip(backbone: BackboneSettings | None) -> FrozenClip:
        return FrozenClip(backbone or BackboneSettings(), prompts, device)

    def build(entry: AnyFilterSettings) -> Filter:
        match entry:
            case BlankSettings():
                return Blank(entry)
            case SafetySettings():
                return Safety(entry, device)
            case ClipScoreSettings():
                return ClipScore(entry, clip(entry.backbone))
            case ClipSimilaritySettings():
                return ClipSimilarity(entry, clip(entry.backbone))
            case ClipMarginSettings():
                return ClipMargin(entry, clip(entry.backbone))
            case ClipHeadSettings():
                return ClipHead(entry, clip(entry.backbone), url)
            case DuplicateSettings():
                return Duplicate(entry)
            case ClipDuplicateSettings():
                return ClipDuplicate(entry, clip(entry.backbone))
            case LeakageSettings():
                return Leakage(entry, clip(entry.backbone), url)

    return [build(entry) for entry in settings]


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
