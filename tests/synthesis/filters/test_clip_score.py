from __future__ import annotations

import pytest
import torch
from PIL import Image

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.synthesis.filters import ClipScore, ClipScoreSettings, FrozenClip
from tests.synthesis.filters.conftest import PROMPTS, batch, noise


def probabilities(backbone: BackboneSettings, images: list[Image.Image]) -> torch.Tensor:
    """(N, C) zero-shot probabilities by open_clip's own forward pass."""
    clip = load_backbone(backbone)
    with torch.inference_mode():
        features, texts, scale = clip.model(torch.stack([clip.preprocess(i) for i in images]), clip.tokenizer(PROMPTS))
    return (scale * features @ texts.T).softmax(dim=1)


def test_the_clip_score_is_the_zero_shot_probability_of_the_own_class(
    backbone: BackboneSettings, clip: FrozenClip
) -> None:
    images, labels = [noise(seed) for seed in range(6)], [0, 1, 2, 3, 4, 0]
    expected = probabilities(backbone, images)[range(6), labels]
    verdict = ClipScore(ClipScoreSettings(top=5), clip).score(batch(images, labels))
    assert verdict.scores == pytest.approx(expected.tolist(), rel=1e-4)
    assert verdict.keep == [True] * 6


def test_the_own_class_must_be_among_the_top(backbone: BackboneSettings, clip: FrozenClip) -> None:
    image = noise(1)
    order = probabilities(backbone, [image])[0].argsort(descending=True).tolist()
    for top in (1, 2, 4):
        verdict = ClipScore(ClipScoreSettings(top=top), clip).score(batch([image] * 5, order))
        assert verdict.keep == [rank < top for rank in range(5)]


def test_the_own_class_must_be_probable_enough(backbone: BackboneSettings, clip: FrozenClip) -> None:
    image = noise(2)
    own = probabilities(backbone, [image])[0]
    bound = float(own.sort().values[2:4].mean())
    verdict = ClipScore(ClipScoreSettings(probability=bound), clip).score(batch([image] * 5, range(5)))
    assert verdict.keep == [float(p) >= bound for p in own]
    assert verdict.keep.count(True) == 2
