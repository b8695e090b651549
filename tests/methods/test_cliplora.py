"""CLIP-LoRA gives the numbers of its authors' code; with updates of each domain it keeps what SYNC-CLIP promises."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.cliplora import ClipLora, LowRank
from syncclip.training.optimizers import rate_at
from syncclip.training.settings import TrainingSettings
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.variants import Variant, variants_of

LIMITS = (5e-5, 2e-7)


def ours(theirs: str) -> str:
    """Our name of a parameter, or of a matrix that draws a dropout mask."""
    found = re.fullmatch(
        r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.(q|k|v|out)_proj(?:\.w_lora_([AB]))?", theirs
    )
    assert found is not None, theirs
    tower, block, matrix, half = found.groups()
    return f"{'vision' if tower else 'text'}_parts.{block}.{(half or 'A').lower()}.{matrix}"


def build(variant: Variant) -> ClipLora:
    told = variant.settings
    projections = tuple({"o": "out"}.get(name, name) for name in told["params"])
    settings = ClipLora.Settings(
        rank=told["r"], alpha=told["alpha"], dropout=told["dropout_rate"], towers=told["encoder"],
        projections=projections,
    )  # fmt: skip
    method = ClipLora(parity.tiny_clip(), variant.classnames, variant.base, told["template"], settings)
    method.load_state_dict(variant.under("param.", ours))
    return method


def check_features(variant: Variant) -> None:
    method, images = build(variant).eval(), variant["in.images"]
    with torch.no_grad():
        raw, logits = method.image_features(images), method.logits(images)
        variant.differs("normalised", "out.eval_text_features", method.text_features())
    variant.differs("normalised", "out.eval_image_features", normalize(raw, dim=-1))
    variant.differs("logits", "out.eval_logits_all", logits)
    variant.differs("logits", "out.eval_logits_base", logits[:, : variant.base])
    variant.differs("logits", "out.eval_logits_novel", logits[:, variant.base :])


def check_training(variant: Variant, patch: pytest.MonkeyPatch) -> None:
    """Features and loss with the stored masks, gradients, and the whole training by the authors' schedule."""
    method, told = build(variant).train(), variant.settings
    drop(method, variant, patch)
    raw = method.image_features(variant["in.images"])
    variant.differs("raw", "out.image_features_raw", raw)
    loss = method.loss(variant.batch())["total"]
    variant.differs("loss", "loss.total", loss)
    variant.check_gradients(method, loss, ours)
    steps = told["total_iters"]
    rates = [
        rate_at(told["lr"], step, steps, TrainingSettings(epochs=1), method.settings.optimisation)
        for step in range(steps)
    ]
    same = rates == pytest.approx(variant["schedule.lr"].tolist(), rel=1e-12, abs=1e-12)
    assert same, f"{variant.name}: rates differ"
    asked = method.settings.optimisation
    variant.check_course(method, asked, ours, LIMITS, torch.tensor(rates, dtype=torch.float64), "schedule.")
    method = build(variant).train()
    drop(method, variant, patch)
    variant.check_course(method, asked, ours, LIMITS)


def drop(method: ClipLora, variant: Variant, patch: pytest.MonkeyPatch) -> None:
    """Let a method in training drop what the file's masks do; without any, nothing is dropped."""
    masks = variant.under("in.mask.", ours)
    blocks = {id(part): block for block, part in enumerate(method.vision_parts)}

    def dropped(part: LowRank, name: str, x: Tensor) -> Tensor:
        mask = masks.get(f"vision_parts.{blocks.get(id(part))}.a.{name}")
        if not part.training or mask is None:
            return x
        return x * mask[:, : x.shape[1]] / (1 - part.dropout)

    patch.setattr(LowRank, "dropped", dropped)


@pytest.fixture(params=variants_of("cliplora"))
def variant(request: pytest.FixtureRequest) -> Variant:
    return Variant("cliplora", request.param)


def test_cliplora_parity_of_features_and_logits(variant: Variant) -> None:
    check_features(variant)


def test_cliplora_parity_of_a_training(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    check_training(variant, monkeypatch)


def test_cliplora_parity_of_its_optimiser(variant: Variant) -> None:
    variant.check_optimisation(ClipLora.Settings())


def test_it_starts_as_the_frozen_clip(clip: PromptedClip) -> None:
    method, zeroshot = (build_method(name, clip, DATASET).eval() for name in ("cliplora", "zeroshot"))
    with torch.no_grad():
        torch.testing.assert_close(method.logits(batch().images), zeroshot.logits(batch().images), rtol=0, atol=1e-4)


def test_a_rank_above_the_width_is_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="rank 999 exceeds"):
        build_method("cliplora", clip, DATASET, ClipLora.Settings(rank=999))


def test_domains_without_a_tower_that_learns_are_refused() -> None:
    with pytest.raises(ValueError, match="towers=text excludes"):
        ClipLora.Settings(domain_rank=1, towers="text")


@pytest.fixture
def domains(clip: PromptedClip) -> ClipLora:
    method = build_method("cliplora", clip, DATASET, ClipLora.Settings(domain_rank=1, dropout=0.0))
    assert isinstance(method, ClipLora)
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=chance)
    return method


def test_each_domain_has_an_update_of_its_own_beside_the_shared_one(domains: ClipLora) -> None:
    images = batch().images[:4]
    mixed = domains.image_features(images, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(mixed[::2], domains.image_features(images)[::2])
    synthetic = domains.image_features(images, torch.ones(4))
    torch.testing.assert_close(mixed[1::2], synthetic[1::2])
    assert not torch.allclose(synthetic, domains.image_features(images), atol=1e-3)
    with torch.no_grad():  # equal updates: one of twice the size
        for real, other in zip(domains.real_parts.parameters(), domains.synthetic_parts.parameters(), strict=True):
            other.copy_(real)
    torch.testing.assert_close(domains.image_features(images, torch.ones(4)), domains.image_features(images))


def test_with_domains_the_losses_are_those_of_syncclip(domains: ClipLora) -> None:
    losses = domains.loss(batch())
    assert set(losses) == {"real", "synthetic", "alignment", "total"}
    weighted = losses["real"] + 0.4 * losses["synthetic"] + 0.1 * losses["alignment"]
    torch.testing.assert_close(losses["total"], weighted)
    losses["total"].backward()
    assert all(p.grad is not None and p.grad.any() for p in domains.parameters())


def test_without_domains_there_is_one_cross_entropy(clip: PromptedClip) -> None:
    method = build_method("cliplora", clip, DATASET)
    assert set(method.loss(batch())) == {"classification", "total"}
    assert not any(name.startswith(("real", "synthetic")) for name in method.state_dict())
