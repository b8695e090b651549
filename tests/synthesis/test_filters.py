from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.synthesis.filters import Blank, BlankSettings, ClipScore, ClipScoreSettings, build_filters
from tests.worlds.clip import make_clip_folder


def noise(seed: int, size: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("picture", "kept"),
    [
        (Image.new("RGB", (32, 32), "black"), False),
        (Image.new("RGB", (32, 32), (200, 30, 90)), False),
        (noise(0), True),
        (Image.merge("RGB", [Image.new("L", (32, 32)), noise(0).getchannel(0), Image.new("L", (32, 32))]), True),
    ],
)
def test_blank_rejects_constant_pictures_of_any_colour(picture: Image.Image, kept: bool) -> None:
    assert Blank(BlankSettings()).judge([picture], [0]).keep == [kept]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return BackboneSettings(name=str(make_clip_folder(tmp_path_factory.mktemp("clip"))))


PROMPTS = [f"a photo of a {name}." for name in ("cat", "dog", "tree", "house", "ship")]


def probabilities(backbone: BackboneSettings, images: list[Image.Image]) -> torch.Tensor:
    """(N, C) zero-shot probabilities by open_clip's own forward pass."""
    clip = load_backbone(backbone)
    with torch.inference_mode():
        features, texts, scale = clip.model(torch.stack([clip.preprocess(i) for i in images]), clip.tokenizer(PROMPTS))
    return (scale * features @ texts.T).softmax(dim=1)


def test_the_clip_score_is_the_zero_shot_probability_of_the_own_class(backbone: BackboneSettings) -> None:
    images, labels = [noise(seed) for seed in range(6)], [0, 1, 2, 3, 4, 0]
    expected = probabilities(backbone, images)[range(6), labels]
    verdict = ClipScore(ClipScoreSettings(backbone=backbone, top=5), PROMPTS).judge(images, labels)
    assert verdict.scores == pytest.approx(expected.tolist(), rel=1e-4)
    assert verdict.keep == [True] * 6


def test_the_own_class_must_be_among_the_top(backbone: BackboneSettings) -> None:
    image = noise(1)
    order = probabilities(backbone, [image])[0].argsort(descending=True).tolist()
    for top in (1, 2, 4):
        verdict = ClipScore(ClipScoreSettings(backbone=backbone, top=top), PROMPTS).judge([image] * 5, order)
        assert verdict.keep == [rank < top for rank in range(5)]


def test_the_own_class_must_be_probable_enough(backbone: BackboneSettings) -> None:
    image = noise(2)
    own = probabilities(backbone, [image])[0]
    bound = float(own.sort().values[2:4].mean())
    verdict = ClipScore(ClipScoreSettings(backbone=backbone, probability=bound), PROMPTS).judge([image] * 5, range(5))
    assert verdict.keep == [float(p) >= bound for p in own]
    assert verdict.keep.count(True) == 2


def test_filters_are_built_in_the_order_of_their_settings(backbone: BackboneSettings) -> None:
    built = build_filters([ClipScoreSettings(backbone=backbone, top=1), BlankSettings()], PROMPTS)
    assert [one.name for one in built] == ["clip_score", "blank"]
