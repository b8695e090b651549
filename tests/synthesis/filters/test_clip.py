from __future__ import annotations

import pytest
import torch

from syncclip.clip.backbone import BackboneSettings
from syncclip.synthesis.filters import FrozenClip, build_filters
from syncclip.synthesis.filters.clip_score import ClipMarginSettings, ClipScoreSettings
from tests.synthesis.filters.conftest import PROMPTS, batch, noise


def test_an_image_is_encoded_once_for_all_filters_that_share_a_backbone(
    backbone: BackboneSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, margin = build_filters(
        [ClipScoreSettings(backbone=backbone, top=5), ClipMarginSettings(backbone=backbone)], PROMPTS
    )
    assert score.clip is margin.clip  # type: ignore[attr-defined]
    clip: FrozenClip = score.clip  # type: ignore[attr-defined]
    encoded: list[int] = []
    plain = clip.model.encode_image
    monkeypatch.setattr(clip.model, "encode_image", lambda pixels: encoded.append(len(pixels)) or plain(pixels))
    images = batch([noise(seed) for seed in range(4)])
    score.score(images)
    margin.score(images.at([3, 1]))
    assert encoded == [4]
    assert torch.equal(clip.features(images.images)[[3, 1]], clip.features(images.at([3, 1]).images))
    margin.score(batch([noise(9)]))
    assert encoded == [4, 1]
