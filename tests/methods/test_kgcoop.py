"""KgCoOp: distance from hand-written prompts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.zeroshot import ZeroShot
from tests.methods.classes import DATASET, SIZES, batch


@pytest.mark.parametrize(("sizes", "candidates"), SIZES)
def test_loss_terms(clip: PromptedClip, sizes: tuple[int, int, int], candidates: int) -> None:
    method = build_method("kgcoop", clip, DATASET, KgCoOp.Settings(initial_words="", knowledge_weight=3))
    images = batch(*sizes)
    losses = method.loss(images)
    frozen = build_method("zeroshot", clip, DATASET).text_features()
    squared = (method.text_features() - frozen).square().sum(dim=1)[:candidates]
    torch.testing.assert_close(losses["knowledge"], squared.mean() / 2)
    expected = cross_entropy(method.logits(images.images)[:, :candidates], images.labels)
    torch.testing.assert_close(losses["classification"], expected)
    torch.testing.assert_close(losses["total"], expected + 3 * losses["knowledge"])


def test_template_of_the_hand_written_prompts(clip: PromptedClip) -> None:
    method = build_method("kgcoop", clip, DATASET, KgCoOp.Settings(template="one {} there"))
    zeroshot = build_method("zeroshot", clip, DATASET, ZeroShot.Settings(templates=("one {} there",)))
    torch.testing.assert_close(method.frozen_texts(), zeroshot.text_features())


def test_distance_of_a_context_initialised_with_the_template_is_zero(clip: PromptedClip) -> None:
    distance = build_method("kgcoop", clip, DATASET).loss(batch())["knowledge"]
    assert distance.item() == pytest.approx(0, abs=1e-5)
