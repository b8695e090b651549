from __future__ import annotations

import pytest
import torch
from PIL import Image

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.synthesis.filters import FrozenClip, build_filters
from syncclip.synthesis.filters.clip_score import (
    ClipMargin,
    ClipMarginSettings,
    ClipScore,
    ClipScoreSettings,
    ClipSimilarity,
    ClipSimilaritySettings,
)
from tests.synthesis.filters.conftest import PROMPTS, batch, noise


def probabilities(backbone: BackboneSettings, images: list[Image.Image]) -> torch.Tensor:
    """(N, C) zero-shot probabilities by open_clip's forward pass."""
    clip = load_backbone(backbone)
    with torch.inference_mode():
        features, texts, scale = clip.model(torch.stack([clip.preprocess(i) for i in images]), clip.tokenizer(PROMPTS))
    return (scale * features @ texts.T).softmax(dim=1)


def test_the_clip_score_is_the_zero_shot_probability_of_the_class(backbone: BackboneSettings, clip: FrozenClip) -> None:
    images, labels = [noise(seed) for seed in range(6)], [0, 1, 2, 3, 4, 0]
    expected = probabilities(backbone, images)[range(6), labels]
    result = ClipScore(ClipScoreSettings(top=5), clip).score(batch(images, labels))
    assert result.scores == pytest.approx(expected.tolist(), rel=1e-4)
    assert result.keep == [True] * 6


def test_rank_and_probability_of_the_class_are_limited(backbone: BackboneSettings, clip: FrozenClip) -> None:
    image = noise(1)
    scores = probabilities(backbone, [image])[0]
    order = scores.argsort(descending=True).tolist()
    for top in (1, 2, 4):
        result = ClipScore(ClipScoreSettings(top=top), clip).score(batch([image] * 5, order))
        assert result.keep == [rank < top for rank in range(5)]
    bound = float(scores.sort().values[2:4].mean())
    result = ClipScore(ClipScoreSettings(probability=bound), clip).score(batch([image] * 5, range(5)))
    assert result.keep == [float(score) >= bound for score in scores] and result.keep.count(True) == 2


def test_the_margin_to_the_nearest_other_class_has_a_minimum(clip: FrozenClip) -> None:
    image = noise(3)
    cosines = (clip.features([image]) @ clip.classes.T)[0].tolist()
    first, second = sorted(cosines, reverse=True)[:2]
    expected = [cosine - (second if cosine == first else first) for cosine in cosines]
    result = ClipMargin(ClipMarginSettings(), clip).score(batch([image] * 5, range(5)))
    assert result.scores == pytest.approx(expected, abs=1e-6)
    assert result.keep == [cosine == first for cosine in cosines]
    margin, label = first - second, cosines.index(first)
    for minimum, kept in ((margin - 1e-4, True), (margin + 1e-4, False)):
        assert ClipMargin(ClipMarginSettings(minimum=minimum), clip).score(batch([image], [label])).keep == [kept]


TEXTS = ["a cat on a mat", "seven blue ships", "a cat on a mat"]


def test_the_similarity_to_the_prompt_has_a_minimum(backbone: BackboneSettings, clip: FrozenClip) -> None:
    images = [noise(seed) for seed in range(3)]
    plain = load_backbone(backbone)
    with torch.inference_mode():
        seen, read, _ = plain.model(torch.stack([plain.preprocess(i) for i in images]), plain.tokenizer(TEXTS))
    cosines = (seen * read).sum(dim=1).tolist()
    bound = sorted(cosines)[1]
    result = ClipSimilarity(ClipSimilaritySettings(minimum=bound - 1e-4), clip).score(batch(images, prompts=TEXTS))
    assert result.scores == pytest.approx(cosines, abs=1e-5)
    assert result.keep == [cosine >= bound for cosine in cosines] and result.keep.count(True) == 2


def test_features_of_a_prompt_do_not_depend_on_other_prompts(backbone: BackboneSettings) -> None:
    separate = FrozenClip(backbone, []).sentences(TEXTS[:1])[0]
    together = FrozenClip(backbone, []).sentences([*TEXTS[1:], *(f"{n} dogs" for n in range(9))])[1]
    assert torch.equal(separate, together)


def test_filters_with_the_same_backbone_encode_an_image_once(
    backbone: BackboneSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, margin = build_filters(
        [ClipScoreSettings(backbone=backbone, top=5), ClipMarginSettings(backbone=backbone)], PROMPTS
    )
    clip: FrozenClip = score.clip  # type: ignore[attr-defined]
    encoded: list[int] = []
    encode_image = clip.model.encode_image
    monkeypatch.setattr(clip.model, "encode_image", lambda pixels: encoded.append(len(pixels)) or encode_image(pixels))
    images = batch([noise(seed) for seed in range(4)])
    score.score(images)
    margin.score(images.at([3, 1]))
    assert encoded == [4]
    assert torch.equal(clip.features(images.images)[[3, 1]], clip.features(images.at([3, 1]).images))
    margin.score(batch([noise(9)]))
    assert encoded == [4, 1]
