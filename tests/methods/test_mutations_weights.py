"""The parity checks of CLIP-LoRA, 2SFS and MMA notice mistakes: each is planted, and must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from syncclip.clip.parts import BlockPart
from syncclip.methods import mma, twostage
from syncclip.methods.adapted import Adapted
from syncclip.methods.cliplora import ClipLora, LowRank
from syncclip.methods.mma import Adapter
from syncclip.methods.settings import ClipLoraSettings, Optimisation, TwoStageSettings
from syncclip.methods.twostage import Norms, TwoStage
from tests.methods import parity, test_cliplora, test_mma, test_twostage
from tests.methods.variants import Variant

pytestmark = pytest.mark.slow

Plant = Callable[[pytest.MonkeyPatch], None]


def alpha_over_the_rank(patch: pytest.MonkeyPatch) -> None:
    right = LowRank.__init__

    def wrong(part: LowRank, width: int, rank: int, settings: Any) -> None:
        right(part, width, rank, settings)
        part.scale = settings.alpha / rank

    patch.setattr(LowRank, "__init__", wrong)


def query_left_alone(patch: pytest.MonkeyPatch) -> None:
    right = LowRank.linear

    def wrong(part: LowRank, name: Any, *given: Tensor) -> Tensor:
        return BlockPart.linear(part, name, *given) if name == "q" else right(part, name, *given)

    patch.setattr(LowRank, "linear", wrong)


def update_after_the_bias_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The frozen bias is lost where there is an update."""

    def wrong(part: LowRank, name: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight) + part.update(name, x) if name in part.a else F.linear(x, weight, bias)

    patch.setattr(LowRank, "linear", wrong)


def text_left_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Adapted, "text_features", lambda s, classes=slice(None): F.normalize(
        s.clip.encode_text(s.texts[classes]), dim=-1
    ))  # fmt: skip


def mask_of_the_query_for_all(patch: pytest.MonkeyPatch) -> None:
    """Query, key and value share a mask; see `drop_otherwise`."""
    OTHERWISE.append(lambda right: lambda part, name, x: right(part, "q", x))
    patch.setattr(test_cliplora, "drop", drop_otherwise)


def masks_without_rescaling(patch: pytest.MonkeyPatch) -> None:
    OTHERWISE.append(lambda right: lambda part, name, x: right(part, name, x) * (1 - part.dropout))
    patch.setattr(test_cliplora, "drop", drop_otherwise)


OTHERWISE: list[Callable[[Any], Any]] = []
"""What the planted mistake makes of dropping; the last one counts."""


def drop_otherwise(method: ClipLora, variant: Variant, patch: pytest.MonkeyPatch) -> None:
    DROP(method, variant, patch)
    patch.setattr(LowRank, "dropped", OTHERWISE[-1](LowRank.dropped))


DROP = test_cliplora.drop


def asking(settings: type[Any], **change: Any) -> Plant:
    """Another optimiser than the authors'."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = settings.optimisation.fget
        patch.setattr(settings, "optimisation", property(lambda s: right(s)._replace(**change)))

    plant.__name__ = "_".join(["asking", *change])
    return plant


def only_first_norms(patch: pytest.MonkeyPatch) -> None:
    right = Norms.norm
    patch.setattr(Norms, "norm", lambda s, name, frozen, x: right(s, name, frozen, x) if name == "ln_1" else frozen(x))


def vectors_not_normalised(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(twostage, "normalize", lambda x, dim: x)


def start_at_random(patch: pytest.MonkeyPatch) -> None:
    def wrong(method: TwoStage, count: int) -> None:
        with torch.no_grad():
            method.classifier[:count] = torch.randn(count, method.classifier.shape[1])

    patch.setattr(TwoStage, "_begin", wrong)


def towers_go_on(patch: pytest.MonkeyPatch) -> None:
    """In the second stage the image tower still learns."""
    patch.setattr(TwoStage, "loss_features", torch.enable_grad()(TwoStage.loss_features))


def texts_for_all(patch: pytest.MonkeyPatch) -> None:
    """Base classes are recognised by their texts too."""
    patch.setattr(TwoStage, "text_features", Adapted.text_features)


def rounded_switch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Optimisation, "switch", lambda s, steps: round(steps * s.first_stage))


def one_cosine(patch: pytest.MonkeyPatch) -> None:
    asking(TwoStageSettings, first_stage=1.0)(patch)


def true_gradients(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mma, "_scaled", lambda x, value, gradient: x * value)


def gradient_of_the_branch_not_scaled_back(patch: pytest.MonkeyPatch) -> None:
    right = mma._scaled
    patch.setattr(mma, "_scaled", lambda x, value, gradient: right(x, value, 1.0))


def inner_layer_left_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Adapter, "beside", lambda s, x: mma._scaled(
        s.up(F.relu(s.down(mma._scaled(x, 1.0, s.scale)))), s.scale, 1.0
    ))  # fmt: skip


def one_relu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Adapter, "beside", lambda s, x: mma._scaled(
        s.up(s.shared(F.relu(s.down(mma._scaled(x, 1.0, s.scale))))), s.scale, 1.0
    ))  # fmt: skip


def inner_layers_swapped(patch: pytest.MonkeyPatch) -> None:
    right = mma._adapters
    patch.setattr(mma, "_adapters", lambda width, layers, shared, scale: right(
        width, layers, dict(zip(shared, [*shared.values()][::-1], strict=True)), scale
    ))  # fmt: skip


MISTAKES: dict[str, list[Plant]] = {
    "cliplora": [
        alpha_over_the_rank,
        query_left_alone,
        update_after_the_bias_forgotten,
        text_left_alone,
        mask_of_the_query_for_all,
        masks_without_rescaling,
        asking(ClipLoraSettings, weight_decay=0.0),
        asking(ClipLoraSettings, last_rate=0.0),
        asking(ClipLoraSettings, by_step=False),
    ],
    "twostage": [
        only_first_norms,
        vectors_not_normalised,
        start_at_random,
        towers_go_on,
        texts_for_all,
        rounded_switch,
        one_cosine,
        asking(TwoStageSettings, weight_decay=0.0),
    ],
    "mma": [
        true_gradients,
        gradient_of_the_branch_not_scaled_back,
        inner_layer_left_out,
        one_relu,
        inner_layers_swapped,
    ],
}
VARIANTS = {"cliplora": ("both", "masked"), "twostage": ("all", "late"), "mma": ("main", "one")}
CASES = [
    pytest.param(name, plant, id=f"{name}-{plant.__name__}") for name, plants in MISTAKES.items() for plant in plants
]


def check_all(name: str, patch: pytest.MonkeyPatch) -> None:
    for variant in VARIANTS[name]:
        if name == "cliplora":
            test_cliplora.check_features(Variant(name, variant))
            test_cliplora.check_training(Variant(name, variant), patch)
        elif name == "mma":
            test_mma.check(Variant(name, variant))
        else:
            for check in test_twostage.CHECKS:
                check(Variant(name, variant))


@pytest.fixture(autouse=True)
def committed() -> Iterator[None]:
    with parity.committed():
        yield


@pytest.mark.parametrize("name", MISTAKES)
def test_without_a_mistake_all_checks_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_all(name, monkeypatch)


@pytest.mark.parametrize(("name", "plant"), CASES)
def test_a_mistake_is_noticed(name: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="differ"):
        check_all(name, monkeypatch)
