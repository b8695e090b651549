from __future__ import annotations

import pytest
import torch
from PIL import Image

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.synthesis.filters import FrozenClip
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


def test_an_image_that_is_nearer_to_another_class_is_rejected(clip: FrozenClip) -> None:
    image = noise(3)
    cosines = (clip.features([image]) @ clip.classes.T)[0].tolist()
    first, second = sorted(cosines, reverse=True)[:2]
    expected = [one - (second if one == first else first) for one in cosines]
    verdict = ClipMargin(ClipMarginSettings(), clip).score(batch([image] * 5, range(5)))
    assert verdict.scores == pytest.approx(expected, abs=1e-6)
    assert verdict.keep == [one == first for one in cosines]


def test_a_small_lead_can_be_too_small(clip: FrozenClip) -> None:
    image = noise(3)
    cosines = (clip.features([image]) @ clip.classes.T)[0]
    best, lead = int(cosines.argmax()), float(cosines.sort().values[-2:].diff())
    for minimum, kept in ((lead - 1e-4, True), (lead + 1e-4, False)):
        assert ClipMargin(ClipMarginSettings(minimum=minimum), clip).score(batch([image], [best])).keep == [kept]


TEXTS = ["a cat on a mat", "seven blue ships", "a cat on a mat"]


def test_the_score_is_the_cosine_to_the_own_prompt_and_the_far_ones_are_rejected(
    backbone: BackboneSettings, clip: FrozenClip
) -> None:
    images = [noise(seed) for seed in range(3)]
    plain = load_backbone(backbone)
    with torch.inference_mode():
        seen, read, _ = plain.model(torch.stack([plain.preprocess(i) for i in images]), plain.tokenizer(TEXTS))
    cosines = (seen * read).sum(dim=1).tolist()
    bound = sorted(cosines)[1]
    verdict = ClipSimilarity(ClipSimilaritySettings(minimum=bound - 1e-4), clip).score(batch(images, prompts=TEXTS))
    assert verdict.scores == pytest.approx(cosines, abs=1e-5)
    assert verdict.keep == [cosine >= bound for cosine in cosines]
    assert verdict.keep.count(True) == 2


def test_the_features_of_a_prompt_do_not_depend_on_the_prompts_beside_it(backbone: BackboneSettings) -> None:
    alone = FrozenClip(backbone, []).sentences(TEXTS[:1])[0]
    beside = FrozenClip(backbone, []).sentences([*TEXTS[1:], *(f"{n} dogs" for n in range(9))])[1]
    assert torch.equal(alone, beside)
