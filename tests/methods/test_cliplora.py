"""CLIP-LoRA: parity with the published code, and domain-specific updates."""

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
_THEIRS = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.(q|k|v|out)_proj(?:\.w_lora_([AB]))?")


def ours(theirs: str) -> str:
    """Our name of a parameter, or of a matrix with a dropout mask."""
    match = _THEIRS.fullmatch(theirs)
    assert match is not None, theirs
    tower, block, matrix, factor = match.groups()
    return f"{'vision' if tower else 'text'}_parts.{block}.{(factor or 'A').lower()}.{matrix}"


def build(variant: Variant) -> ClipLora:
    published = variant.settings
    settings = ClipLora.Settings(
        rank=published["r"],
        alpha=published["alpha"],
        dropout=published["dropout_rate"],
        towers=published["encoder"],
        projections=tuple("out" if name == "o" else name for name in published["params"]),
    )
    method = ClipLora(parity.tiny_clip(), variant.classnames, variant.base, published["template"], settings)
    method.load_state_dict(variant.under("param.", ours))
    return method


def check_features(variant: Variant) -> None:
    method, images = build(variant).eval(), variant["in.images"]
    with torch.no_grad():
        raw, logits = method.image_features(images), method.logits(images)
        variant.check_close("normalised", "out.eval_text_features", method.text_features())
    variant.check_close("normalised", "out.eval_image_features", normalize(raw, dim=-1))
    variant.check_close("logits", "out.eval_logits_all", logits)
    variant.check_close("logits", "out.eval_logits_base", logits[:, : variant.base])
    variant.check_close("logits", "out.eval_logits_novel", logits[:, variant.base :])


def check_training(variant: Variant, patch: pytest.MonkeyPatch) -> None:
    """Features, loss and gradients with the dropout masks of the file; five steps; the published schedule."""
    method, published = build(variant).train(), variant.settings
    apply_masks(method, variant, patch)
    variant.check_close("raw", "out.image_features_raw", method.image_features(variant["in.images"]))
    loss = method.loss(variant.batch())["total"]
    variant.check_close("loss", "loss.total", loss)
    variant.check_gradients(method, loss, ours)
    steps, own = published["total_iters"], method.settings.optimisation
    rates = [rate_at(published["lr"], step, steps, TrainingSettings(epochs=1), own) for step in range(steps)]
    equal = rates == pytest.approx(variant["schedule.lr"].tolist(), rel=1e-12, abs=1e-12)
    assert equal, f"{variant.name}: rates differ"
    variant.check_trajectory(method, own, ours, LIMITS, torch.tensor(rates, dtype=torch.float64), "schedule.")
    method = build(variant).train()
    apply_masks(method, variant, patch)
    variant.check_trajectory(method, own, ours, LIMITS)


def apply_masks(method: ClipLora, variant: Variant, patch: pytest.MonkeyPatch) -> None:
    """Replace dropout by the masks of the file, if it has any."""
    masks = variant.under("in.mask.", ours)
    blocks = {id(part): block for block, part in enumerate(method.vision_parts)}

    def dropped(part: LowRank, name: str, x: Tensor) -> Tensor:
        mask = masks.get(f"vision_parts.{blocks.get(id(part))}.a.{name}")
        if not part.training or mask is None:
            return x
        return x * mask[:, : x.shape[1]] / (1 - part.dropout)

    patch.setattr(LowRank, "dropped", dropped)


@pytest.mark.parametrize("name", variants_of("cliplora"))
def test_cliplora_parity(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = Variant("cliplora", name)
    check_features(variant)
    check_training(variant, monkeypatch)
    variant.check_optimisation(ClipLora.Settings())


def test_initial_updates_are_zero(clip: PromptedClip) -> None:
    method, zeroshot = (build_method(name, clip, DATASET).eval() for name in ("cliplora", "zeroshot"))
    with torch.no_grad():
        torch.testing.assert_close(method.logits(batch().images), zeroshot.logits(batch().images), rtol=0, atol=1e-4)


def test_invalid_ranks(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="rank 999 exceeds"):
        build_method("cliplora", clip, DATASET, ClipLora.Settings(rank=999))
    with pytest.raises(ValueError, match="towers is 'text'"):
        ClipLora.Settings(domain_rank=1, towers="text")


@pytest.fixture
def with_domains(clip: PromptedClip) -> ClipLora:
    method = build_method("cliplora", clip, DATASET, ClipLora.Settings(domain_rank=1, dropout=0.0))
    assert isinstance(method, ClipLora)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return method


def test_domains_have_separate_updates(with_domains: ClipLora) -> None:
    images = batch().images[:4]
    mixed = with_domains.image_features(images, torch.tensor([0, 1, 0, 1]))
    real, synthetic = with_domains.image_features(images), with_domains.image_features(images, torch.ones(4))
    torch.testing.assert_close(mixed[::2], real[::2])
    torch.testing.assert_close(mixed[1::2], synthetic[1::2])
    assert not torch.allclose(synthetic, real, atol=1e-3)
    with torch.no_grad():
        pairs = zip(with_domains.real_parts.parameters(), with_domains.synthetic_parts.parameters(), strict=True)
        for source, target in pairs:
            target.copy_(source)
    torch.testing.assert_close(with_domains.image_features(images, torch.ones(4)), real)


def test_loss_with_domains_is_that_of_syncclip(with_domains: ClipLora) -> None:
    losses = with_domains.loss(batch())
    assert set(losses) == {"real", "synthetic", "alignment", "total"}
    weighted = losses["real"] + 0.4 * losses["synthetic"] + 0.1 * losses["alignment"]
    torch.testing.assert_close(losses["total"], weighted)
    losses["total"].backward()
    assert all(p.grad is not None and p.grad.any() for p in with_domains.parameters())


def test_loss_without_domains_is_one_cross_entropy(clip: PromptedClip) -> None:
    method = build_method("cliplora", clip, DATASET)
    assert set(method.loss(batch())) == {"classification", "total"}
    assert not any(name.startswith(("real", "synthetic")) for name in method.state_dict())
