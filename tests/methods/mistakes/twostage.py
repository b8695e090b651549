"""Mistakes in 2SFS."""

from __future__ import annotations

import pytest
import torch

from syncclip.methods import twostage
from syncclip.methods.adapted import Adapted
from syncclip.methods.settings import Optimisation, TwoStageSettings
from syncclip.methods.twostage import Norms, TwoStage
from tests.methods import test_twostage
from tests.methods.mistakes import asking
from tests.methods.variants import Variant


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


def check(_: pytest.MonkeyPatch) -> None:
    for variant in (Variant("twostage", "all"), Variant("twostage", "late")):
        for check_part in test_twostage.CHECKS:
            check_part(variant)


OPTIMISERS = [asking(TwoStageSettings, weight_decay=0.0)]
