"""The three losses and the domain prompts of SYNC-CLIP."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.syncclip import SyncClip, alignment
from tests.methods.classes import DATASET, batch
from tests.methods.parity import Batch


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
    with pytest.raises(ValueError, match="domain_tokens is 3"):
        SyncClip.Settings(visual_tokens=2, domain_tokens=3)


def taught(*sizes: int) -> Batch:
    """Zeros for real images, as the stream gives them."""
    given = batch(*sizes)
    teacher = torch.rand(len(given.images), 5, generator=torch.Generator().manual_seed(3)).mul(4).softmax(dim=1)
    return given._replace(teacher=teacher * given.domains[:, None])


def distilled(clip: PromptedClip, weight: float, temperature: float = 1.0) -> SyncClip:
    settings = SyncClip.Settings(distillation_weight=weight, temperature=temperature)
    method = build_method("syncclip", clip, DATASET, settings, seed=1)
    assert isinstance(method, SyncClip)
    return method


def divergence(method: SyncClip, given: Batch, heat: float) -> Tensor:
    """Image by image and class by class, over synthetic images."""
    assert given.teacher is not None
    scores, each = method.logits(given.images, given.domains), []
    for row in range(given.sizes[0], len(given.images)):
        target = (given.teacher[row].log() / heat).softmax(dim=0)
        said = log_softmax(scores[row] / heat, dim=0)
        each.append(sum(p * (p.log() - q) for p, q in zip(target, said, strict=True)))
    return heat**2 * torch.stack(each).mean()


@pytest.mark.parametrize("heat", [1.0, 2.5])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (0, 4, 4), (4, 4, 0), (0, 4, 0)])
def test_distillation_is_the_mean_divergence_of_synthetic_images_over_all_classes(
    clip: PromptedClip, sizes: tuple[int, int, int], heat: float
) -> None:
    method, given = distilled(clip, 0.7, heat), taught(*sizes)
    losses = method.loss(given)
    torch.testing.assert_close(losses["distillation"], divergence(method, given, heat))
    others = distilled(clip, 0.0).loss(given)
    assert others.keys() == losses.keys() - {"distillation"}
    synthetic = others["total"] if sizes[0] else 0.4 * others["synthetic"]  # which has no weight where it is alone
    torch.testing.assert_close(losses["total"], synthetic + 0.7 * losses["distillation"])


def test_without_a_weight_a_teacher_changes_no_bit(clip: PromptedClip) -> None:
    method, given = distilled(clip, 0.0), taught()
    assert list(method.weights) == ["synthetic", "alignment"]
    with_teacher, without = method.loss(given), method.loss(given._replace(teacher=None))
    assert with_teacher.keys() == without.keys()
    assert all(torch.equal(with_teacher[name], without[name]) for name in without)


def test_real_images_alone_have_no_teacher(clip: PromptedClip) -> None:
    assert distilled(clip, 1.0).loss(taught(4, 0, 0)).keys() == {"real", "total"}


def test_the_settings_of_distillation_are_written_only_where_they_are_given() -> None:
    told = SyncClip.Settings().model_dump()
    assert not {"distillation_weight", "temperature"} & told.keys()
    assert SyncClip.Settings(distillation_weight=0.5).model_dump().keys() - told.keys() == {"distillation_weight"}
