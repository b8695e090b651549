"""SYNC-CLIP: losses, domain prompts and distillation."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.syncclip import SyncClip, alignment
from tests.methods.classes import DATASET, batch
from tests.methods.parity import Batch


@pytest.mark.parametrize(
    ("sizes", "terms"),
    [
        ((4, 0, 0), {"real"}),
        ((0, 4, 4), {"synthetic"}),
        ((0, 4, 0), {"synthetic"}),
        ((4, 4, 0), {"real", "synthetic", "alignment"}),
        ((4, 4, 4), {"real", "synthetic", "alignment"}),
    ],
)
def test_loss_terms_depend_on_the_groups_of_a_batch(
    clip: PromptedClip, sizes: tuple[int, int, int], terms: set[str]
) -> None:
    assert build_method("syncclip", clip, DATASET).loss(batch(*sizes)).keys() == terms | {"total"}


def test_all_groups_are_encoded_in_one_pass(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    method, sizes, original = build_method("syncclip", clip, DATASET), [], clip.encode_images
    monkeypatch.setattr(
        clip, "encode_images", lambda images, *args: sizes.append(len(images)) or original(images, *args)
    )
    method.loss(batch())
    assert sizes == [12]


def test_one_pass_over_both_domains_equals_two(clip: PromptedClip) -> None:
    method, mixed = build_method("syncclip", clip, DATASET), batch()
    both = method.image_features(mixed.images, mixed.domains)
    real, synthetic = (
        method.image_features(mixed.images[rows], mixed.domains[rows]) for rows in (slice(4), slice(4, 12))
    )
    torch.testing.assert_close(both, torch.cat([real, synthetic]), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[:4], method.image_features(mixed.images[:4]), rtol=0, atol=1e-5)


def of_domain(clip: PromptedClip, domain: str) -> SyncClip:
    method = build_method("syncclip", clip, DATASET, SyncClip.Settings.model_validate({"test_domain": domain}), seed=1)
    assert isinstance(method, SyncClip)
    return method.eval()


def test_test_domain_selects_the_prompts_of_test_images(clip: PromptedClip) -> None:
    images, scale = batch().images, float(clip.logit_scale)
    method = of_domain(clip, "real")
    with torch.no_grad():
        vectors, prompts = method.text_features(), [*zip(method.vision_prompts, method.synthetic_prompts, strict=True)]
        real = scale * normalize(clip.encode_images(images, [r for r, _ in prompts]), dim=-1) @ vectors.T
        own = [torch.cat([synthetic, r[2:]]) for r, synthetic in prompts]
        synthetic = scale * normalize(clip.encode_images(images, own), dim=-1) @ vectors.T
        assert not torch.allclose(real, synthetic, atol=1e-2)
        for domain, expected in {"real": real, "synthetic": synthetic, "both": (real + synthetic) / 2}.items():
            selected = of_domain(clip, domain)
            torch.testing.assert_close(selected.logits(images), expected)
            assert selected.has_several_image_features == (domain == "both")
            assert torch.equal(method.logits_by_domain(images, [domain])[0], selected.logits(images))


def test_several_test_domains_encode_the_images_once_per_domain(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, sizes, original, images = of_domain(clip, "real"), [], clip.encode_images, batch().images
    monkeypatch.setattr(clip, "encode_images", lambda x, *args: sizes.append(len(x)) or original(x, *args))
    with torch.no_grad():
        default, both, synthetic, real = method.logits_by_domain(images, [None, "both", "synthetic", "real"])
        assert sizes == [len(images)] * 2
        assert torch.equal(default, real) and torch.equal(real, method.logits(images))
        torch.testing.assert_close(both, (real + synthetic) / 2)


class Shifted(SyncClip):
    """A custom method with other image features."""

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        return super().image_features(images, domains) + 1


def test_evaluation_uses_the_image_features_of_a_subclass(clip: PromptedClip) -> None:
    with torch.no_grad():
        method = Shifted(clip, DATASET.classnames, len(DATASET.base), DATASET.template, SyncClip.Settings()).eval()
        (logits,) = method.logits_by_domain(batch().images, [None])
        features = normalize(method.image_features(batch().images), dim=-1)
        torch.testing.assert_close(logits, clip.logit_scale * features @ method.text_features().T)


def test_test_domain_does_not_change_the_loss(clip: PromptedClip) -> None:
    real, both = (of_domain(clip, domain).loss(batch()) for domain in ("real", "both"))
    assert all(torch.equal(real[name], both[name]) for name in real)


def with_vectors(clip: PromptedClip) -> tuple[SyncClip, SyncClip]:
    """SYNC-CLIP with class vectors before its first step, and with text prompts."""
    methods = []
    for class_vectors in (True, False):
        method = build_method("syncclip", clip, DATASET, SyncClip.Settings(class_vectors=class_vectors), seed=1)
        assert isinstance(method, SyncClip)
        methods.append(method)
    return methods[0], methods[1]


def test_class_vectors_start_as_unit_length_zero_shot_features(clip: PromptedClip) -> None:
    method, _ = with_vectors(clip)
    expected = build_method("zeroshot", clip, DATASET).text_features()
    torch.testing.assert_close(method.text_features(), expected)
    assert not method.vectors.any()
    method.step_begins(0, 9)
    torch.testing.assert_close(method.vectors.detach(), expected.detach())
    learned = method.vectors.detach() + 1
    with torch.no_grad():
        method.vectors.copy_(learned)
    method.step_begins(1, 9)
    assert torch.equal(method.vectors.detach(), learned)
    torch.testing.assert_close(method.text_features(), normalize(learned, dim=-1))


def test_class_vectors_replace_only_the_text_prompts(clip: PromptedClip) -> None:
    method, prompted = with_vectors(clip)
    state, other = method.state_dict(), prompted.state_dict()
    assert state.keys() - other.keys() == {"vectors"}
    assert other.keys() - state.keys() == {name for name in other if name.startswith("text_prompts")}
    assert all(torch.equal(state[name], other[name]) for name in state.keys() & other.keys())
    method.step_begins(0, 9)
    images, losses = batch(), method.loss(batch())
    assert losses.keys() == {"real", "synthetic", "alignment", "total"}
    assert torch.equal(losses["alignment"], prompted.loss(images)["alignment"])
    scores = method.scores(method.image_features(images.images, images.domains), method.vectors)
    torch.testing.assert_close(losses["real"], cross_entropy(scores[:4, :3], images.labels[:4]))


def test_class_vectors_have_the_gradient_of_the_losses(clip: PromptedClip) -> None:
    method, _ = with_vectors(clip)
    method.step_begins(0, 9)
    method.loss(batch(4, 0, 0))["total"].backward()
    gradient = method.vectors.grad
    assert gradient is not None and gradient.any(dim=1).tolist() == [True, True, True, False, False]
    method.loss(batch())["total"].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


@pytest.mark.parametrize("k", [0, 4])
def test_all_visual_prompts_may_be_shared_or_domain_specific(clip: PromptedClip, k: int) -> None:
    method, mixed = build_method("syncclip", clip, DATASET, SyncClip.Settings(domain_tokens=k)), batch()
    as_real = method.image_features(mixed.images)
    as_synthetic = method.image_features(mixed.images, torch.ones(12, dtype=torch.long))
    assert torch.allclose(as_real, as_synthetic, atol=1e-6) == (k == 0)
    method.loss(mixed)["total"].backward()


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_alignment_equals_a_loop(negatives: Literal["hardest", "all"]) -> None:
    real, synthetic, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 1, 2, 0, 2])
    expected = 0.0
    for i in range(6):
        partner = (synthetic[i] - real[i]).abs().mean()
        others = [(synthetic[i] - real[j]).abs().mean() for j in range(6) if labels[j] != labels[i]]
        compared = [min(others)] if negatives == "hardest" else others
        hinge = sum(max(partner - other, torch.tensor(0.0)) for other in compared) / len(compared)
        expected += float(partner + hinge) / 6
    assert float(alignment(real, synthetic, labels, negatives)) == pytest.approx(expected, rel=1e-5)


def labelled(*sizes: int) -> Batch:
    """A batch with soft labels, which are zeros for real images."""
    images = batch(*sizes)
    teacher = torch.rand(len(images.images), 5, generator=torch.Generator().manual_seed(3)).mul(4).softmax(dim=1)
    return images._replace(teacher=teacher * images.domains[:, None])


def build(clip: PromptedClip, weight: float, temperature: float = 1.0) -> SyncClip:
    settings = SyncClip.Settings(distillation_weight=weight, temperature=temperature)
    method = build_method("syncclip", clip, DATASET, settings, seed=1)
    assert isinstance(method, SyncClip)
    return method


def mean_divergence(method: SyncClip, images: Batch, temperature: float) -> Tensor:
    """Divergence of synthetic images, image by image and class by class."""
    assert images.teacher is not None
    scores, divergences = method.logits(images.images, images.domains), []
    for row in range(images.sizes[0], len(images.images)):
        target = (images.teacher[row].log() / temperature).softmax(dim=0)
        student = log_softmax(scores[row] / temperature, dim=0)
        divergences.append(sum(p * (p.log() - q) for p, q in zip(target, student, strict=True)))
    return temperature**2 * torch.stack(divergences).mean()


@pytest.mark.parametrize(
    ("sizes", "temperature"), [((4, 4, 4), 1.0), ((0, 4, 4), 2.5), ((4, 4, 0), 2.5), ((0, 4, 0), 1.0)]
)
def test_distillation_is_the_mean_divergence_of_synthetic_images(
    clip: PromptedClip, sizes: tuple[int, int, int], temperature: float
) -> None:
    method, images = build(clip, 0.7, temperature), labelled(*sizes)
    losses = method.loss(images)
    torch.testing.assert_close(losses["distillation"], mean_divergence(method, images, temperature))
    others = build(clip, 0.0).loss(images)
    assert others.keys() == losses.keys() - {"distillation"}
    total = others["total"] if sizes[0] else 0.4 * others["synthetic"]  # not weighted as the only term
    torch.testing.assert_close(losses["total"], total + 0.7 * losses["distillation"])


def test_soft_labels_are_ignored_without_a_weight(clip: PromptedClip) -> None:
    method, images = build(clip, 0.0), labelled()
    assert list(method.weights) == ["synthetic", "alignment"]
    with_teacher, without = method.loss(images), method.loss(images._replace(teacher=None))
    assert with_teacher.keys() == without.keys()
    assert all(torch.equal(with_teacher[name], without[name]) for name in without)


def test_real_images_have_no_distillation(clip: PromptedClip) -> None:
    assert build(clip, 1.0).loss(labelled(4, 0, 0)).keys() == {"real", "total"}


def test_settings_of_distillation_are_serialised_only_if_set() -> None:
    default = SyncClip.Settings().model_dump()
    assert not {"distillation_weight", "temperature", "test_domain", "class_vectors"} & default.keys()
    assert SyncClip.Settings(distillation_weight=0.5).model_dump().keys() - default.keys() == {"distillation_weight"}
