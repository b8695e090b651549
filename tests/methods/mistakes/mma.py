"""Mistakes in MMA."""

from __future__ import annotations

import pytest
from torch.nn import functional as F

from syncclip.methods import mma
from syncclip.methods.mma import Adapter
from tests.methods import test_mma
from tests.methods.variants import Variant


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


def check(_: pytest.MonkeyPatch) -> None:
    for variant in (Variant("mma", "main"), Variant("mma", "one")):
        test_mma.check(variant)
