"""The three losses and the domain prompts of SYNC-CLIP."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.syncclip import SyncClip, alignment
from tests.methods.classes import DATASET, batch


def test_syncclip_learns_from_whatever_is_there(clip: PromptedClip) -> None:
    method = build_method("syncclip", clip, DATASET)
    terms = {
        sizes: sorted(set(method.loss(batch(*sizes))) - {"total"})
        for sizes in [(4, 0, 0), (0, 4, 4), (4, 4, 4), (4, 4, 0), (0, 4, 0)]
    }
    assert terms == {
        (4, 0, 0): ["real"],
        (0, 4, 4): ["synthetic"],
        (4, 4, 4): ["alignment", "real", "synthetic"],
        (4, 4, 0): ["alignment", "real", "synthetic"],
        (0, 4, 0): ["synthetic"],
    }


def test_all_groups_go_through_the_vision_tower_at_once(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    method, sizes, right = build_method("syncclip", clip, DATASET), [], clip.encode_images
    monkeypatch.setattr(clip, "encode_images", lambda images, *a: sizes.append(len(images)) or right(images, *a))
    method.loss(batch())
    assert sizes == [12]


def test_one_pass_over_both_domains_is_two_passes(clip: PromptedClip) -> None:
    method, mixed = build_method("syncclip", clip, DATASET), batch()
    both = method.image_features(mixed.images, mixed.domains)
    apart = [method.image_features(mixed.images[d == mixed.domains], mixed.domains[d == mixed.domains]) for d in (0, 1)]
    torch.testing.assert_close(both, torch.cat(apart), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[:4], method.image_features(mixed.images[:4]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [0, 4])
def test_all_or_none_of_the_visual_prompts_may_be_shared(clip: PromptedClip, k: int) -> None:
    method, mixed = build_method("syncclip", clip, DATASET, SyncClip.Settings(domain_tokens=k)), batch()
    as_real = method.image_features(mixed.images)
    as_synthetic = method.image_features(mixed.images, torch.ones(12, dtype=torch.long))
    assert torch.allclose(as_real, as_synthetic, atol=1e-6) == (k == 0)
    method.loss(mixed)["total"].backward()


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_alignment_is_what_a_loop_over_images_gives(negatives: Literal["hardest", "all"]) -> None:
    real, synthetic, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 1, 2, 0, 2])
    expected = 0.0
    for i in range(6):
        own = (synthetic[i] - real[i]).abs().mean()
        others = [(synthetic[i] - real[j]).abs().mean() for j in range(6) if labels[j] != labels[i]]
        against = [min(others)] if negatives == "hardest" else others
        expected += float(own + sum(max(own - q, torch.tensor(0.0)) for q in against) / len(against)) / 6
    assert float(alignment(real, synthetic, labels, negatives)) == pytest.approx(expected, rel=1e-5)


def test_more_domain_tokens_than_visual_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="domain_tokens is 3, but .* visual_tokens, of which there are only 2"):
        SyncClip.Settings(visual_tokens=2, domain_tokens=3)
