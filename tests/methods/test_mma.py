"""MMA gives the numbers of its authors' code, gradients of their scaling included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.mma import Mma
from syncclip.training.optimizers import learning_rate
from tests.methods import parity
from tests.methods.classes import DATASET
from tests.methods.variants import Variant, variants_of

LIMITS = (2e-6, 1e-7)


@pytest.fixture(params=variants_of("mma"))
def variant(request: pytest.FixtureRequest) -> Variant:
    return Variant("mma", request.param)


def build(variant: Variant) -> Mma:
    told = variant.settings
    settings = Mma.Settings(
        first_block=told["ADAPTER_START"],
        last_block=told["ADAPTER_END"],
        width=told["ADAPTER_DIM"], scale=told["ADAPTER_SCALE"],
        template=f"{told['TEXT_CTX_INIT']} {{}}.",
    )  # fmt: skip
    method = Mma(parity.tiny_clip(), variant.classnames, variant.base, "", settings)
    method.load_state_dict(variant.under("param.", renamed(variant)))
    return method


def renamed(variant: Variant) -> Callable[[str], str]:
    """Theirs count all blocks from 1, ours from 0; of the inner layers we have only those that are used."""
    start = variant.settings["ADAPTER_START"]

    def ours(theirs: str) -> str:
        kind, block, *rest = theirs.removeprefix("adapter_learner.").split(".")
        at, rest = int(block), [part for part in rest if part != "0"]
        if kind == "shared_adapter":
            return ".".join([f"shared.{at - start}", *rest])
        tower = {"text_adapter": "text", "visual_adapter": "vision"}[kind]
        return ".".join([f"{tower}_parts.{at - 1}", *rest])

    return ours


def check(variant: Variant) -> None:
    """Features, logits, loss, gradients, and five steps."""
    method, images, base = build(variant), variant["in.images"], variant.base
    raw = method.image_features(images)
    variant.differs("raw", "out.image_features_raw", raw)
    variant.differs("normalised", "out.image_features", normalize(raw, dim=-1))
    variant.differs(
        "raw", "out.text_features_raw_base", method.clip.encode_text(method.texts[:base], parts=method.text_parts)
    )
    variant.differs("normalised", "out.text_features_base", method.text_features(slice(base)))
    logits = method.logits(images)
    variant.differs("logits", "out.logits_train", logits[:, :base])
    variant.differs("logits", "out.eval_logits_all", logits)
    variant.differs("logits", "out.eval_logits_base", logits[:, :base])
    variant.differs("logits", "out.eval_logits_novel", logits[:, base:])
    loss = method.loss(variant.batch())["total"]
    variant.differs("loss", "loss.total", loss)
    variant.check_gradients(method, loss, renamed(variant))
    variant.check_course(method, method.settings.optimisation, renamed(variant), LIMITS)


def test_mma_parity(variant: Variant) -> None:
    check(variant)


def test_mma_parity_of_its_rates(variant: Variant) -> None:
    variant.check_optimisation(Mma.Settings())
    told = variant.settings
    epochs = told["MAX_EPOCH"]
    rates = [learning_rate(told["lr"], epoch, epochs, told["WARMUP_EPOCH"]) for epoch in range(epochs)]
    assert rates == pytest.approx(variant["schedule.lr"].tolist(), rel=1e-12, abs=1e-12)


def test_the_inner_layer_is_one_for_both_towers(clip: PromptedClip) -> None:
    method = build_method("mma", clip, DATASET)
    assert isinstance(method, Mma)
    names = [name for name in method.state_dict() if "shared" in name]
    assert names == [f"shared.{at}.{kind}" for at in range(len(method.shared)) for kind in ("weight", "bias")]
    moved = method.double()
    assert all(
        part.shared is moved.shared[at]
        for parts in (moved.text_parts, moved.vision_parts)
        for at, part in enumerate(parts)
    )


@pytest.mark.parametrize(("first", "last"), [(3, 2), (1, 99)])
def test_blocks_that_are_not_there_are_refused(clip: PromptedClip, first: int, last: int) -> None:
    with pytest.raises(UserError, match=f"methods.mma: adapters of blocks {first} to {last}"):
        build_method("mma", clip, DATASET, Mma.Settings(first_block=first, last_block=last))


def test_nothing_is_said_of_blocks_without_an_adapter(clip: PromptedClip) -> None:
    method = build_method("mma", clip, DATASET, Mma.Settings(first_block=2, last_block=2, scale=1.0))
    assert {name.split(".")[1] for name in method.state_dict() if "parts" in name} == {"1"}
    assert torch.isfinite(method.logits(torch.randn(2, 3, 32, 32))).all()
