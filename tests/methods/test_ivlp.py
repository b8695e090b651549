"""Independent prompts in both towers."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.ivlp import Ivlp
from tests.methods.classes import DATASET, batch


def test_text_prompts_start_as_the_words_of_the_phrase(clip: PromptedClip) -> None:
    method = build_method(
        "ivlp", clip, DATASET, Ivlp.Settings(text_tokens=2, text_depth=1, initial_words="a photo of a")
    )
    words = clip.model.token_embedding(clip.backbone.tokenizer(["a photo"]))[0, 1:3]
    assert torch.equal(method.state_dict()["text_prompts.0"], words)


def test_ivlp_on_real_images_tells_base_classes_apart(clip: PromptedClip) -> None:
    method, real = build_method("ivlp", clip, DATASET), batch(seen=0, novel=0)
    expected = cross_entropy(method.logits(real.images)[:, :3], real.labels)
    torch.testing.assert_close(method.loss(real)["total"], expected)


@pytest.mark.parametrize("real", [0, 4])
def test_ivlp_on_synthetic_or_mixed_images_tells_all_classes_apart(clip: PromptedClip, real: int) -> None:
    method, mixed = build_method("ivlp", clip, DATASET), batch(real=real)
    expected = cross_entropy(method.logits(mixed.images), mixed.labels)
    torch.testing.assert_close(method.loss(mixed)["total"], expected)


def test_prompts_longer_than_the_context_are_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="fewer text tokens"):
        build_method("ivlp", clip, DATASET, Ivlp.Settings(text_tokens=15))
