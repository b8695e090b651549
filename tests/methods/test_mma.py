"""MMA: parity with the published code, and invalid blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.mma import Mma
from tests.methods import parity
from tests.methods.classes import DATASET
from tests.methods.variants import Variant, variants_of

LIMITS = (2e-6, 1e-7)


def build(variant: Variant) -> Mma:
    published = variant.settings
    settings = Mma.Settings(
        first_block=published["ADAPTER_START"],
        last_block=published["ADAPTER_END"],
        width=published["ADAPTER_DIM"],
        scale=published["ADAPTER_SCALE"],
        template=f"{published['TEXT_CTX_INIT']} {{}}.",
    )
    method = Mma(parity.tiny_clip(), variant.classnames, variant.base, "", settings)
    method.load_state_dict(variant.under("param.", renaming(variant)))
    return method


def renaming(variant: Variant) -> Callable[[str], str]:
    """Their blocks are counted from 1, ours from 0; our inner layers from the first block with an adapter."""
    start = variant.settings["ADAPTER_START"]

    def ours(theirs: str) -> str:
        kind, block, *rest = theirs.removeprefix("adapter_learner.").split(".")
        rest = [part for part in rest if part != "0"]
        if kind == "shared_adapter":
            return ".".join([f"shared.{int(block) - start}", *rest])
        tower = {"text_adapter": "text", "visual_adapter": "vision"}[kind]
        return ".".join([f"{tower}_parts.{int(block) - 1}", *rest])

    return ours


def check(variant: Variant) -> None:
    """Features, logits, loss and gradients of a batch, and five steps."""
    method, images, base = build(variant), variant["in.images"], variant.base
    raw, logits = method.image_features(images), method.logits(images)
    variant.check_close("raw", "out.image_features_raw", raw)
    variant.check_close("normalised", "out.image_features", normalize(raw, dim=-1))
    raw = method.clip.encode_text(method.texts[:base], parts=method.text_parts)
    variant.check_close("raw", "out.text_features_raw_base", raw)
    variant.check_close("normalised", "out.text_features_base", method.text_features(slice(base)))
    variant.check_close("logits", "out.logits_train", logits[:, :base])
    variant.check_close("logits", "out.eval_logits_all", logits)
    variant.check_close("logits", "out.eval_logits_base", logits[:, :base])
    variant.check_close("logits", "out.eval_logits_novel", logits[:, base:])
    loss = method.loss(variant.batch())["total"]
    variant.check_close("loss", "loss.total", loss)
    variant.check_gradients(method, loss, renaming(variant))
    variant.check_trajectory(method, method.settings.optimisation, renaming(variant), LIMITS)


@pytest.mark.parametrize("name", variants_of("mma"))
def test_mma_parity(name: str) -> None:
    variant = Variant("mma", name)
    check(variant)
    variant.check_optimisation(Mma.Settings())
    variant.check_epoch_rates()


def test_towers_share_the_inner_layers(clip: PromptedClip) -> None:
    method = build_method("mma", clip, DATASET)
    assert isinstance(method, Mma)
    names = [name for name in method.state_dict() if "shared" in name]
    assert names == [f"shared.{i}.{kind}" for i in range(len(method.shared)) for kind in ("weight", "bias")]
    moved = method.double()
    for parts in (moved.text_parts, moved.vision_parts):
        assert all(part.shared is moved.shared[i] for i, part in enumerate(parts))


@pytest.mark.parametrize(("first", "last"), [(3, 2), (1, 99)])
def test_missing_block_is_an_error(clip: PromptedClip, first: int, last: int) -> None:
    with pytest.raises(UserError, match=f"methods.mma: adapter blocks {first} to {last} are not"):
        build_method("mma", clip, DATASET, Mma.Settings(first_block=first, last_block=last))


def test_blocks_without_adapter_have_no_parameters(clip: PromptedClip) -> None:
    method = build_method("mma", clip, DATASET, Mma.Settings(first_block=2, last_block=2, scale=1.0))
    assert {name.split(".")[1] for name in method.state_dict() if "parts" in name} == {"1"}
    assert torch.isfinite(method.logits(torch.randn(2, 3, 32, 32))).all()
