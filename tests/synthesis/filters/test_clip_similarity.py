from __future__ import annotations

import pytest
import torch

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.synthesis.filters import ClipSimilarity, ClipSimilaritySettings, FrozenClip
from tests.synthesis.filters.conftest import batch, noise

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
