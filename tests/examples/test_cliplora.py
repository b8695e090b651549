"""Parity of the example with the code of CLIP-LoRA's authors; see `tests/methods/parity.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from examples.cliplora import ClipLora
from syncclip.training.optimizers import rate_at
from syncclip.training.settings import TrainingSettings
from tests.methods import parity
from tests.methods.test_cliplora import ours
from tests.methods.variants import Variant

EXAMPLES = Path(__file__).parents[2] / "examples"


def build(variant: Variant) -> ClipLora:
    values = variant.settings
    settings = ClipLora.Settings(rank=values["r"], alpha=values["alpha"], dropout=values["dropout_rate"])
    method = ClipLora(parity.tiny_clip(), variant.classnames, variant.base, values["template"], settings)
    missing, unknown = method.load_state_dict(variant.under("param.", ours), strict=False)  # B = 0: no update
    assert not unknown and (values["params"] != ["q", "k", "v"] or not missing)
    return method


def masks(variant: Variant) -> Iterator[Tensor]:
    """Dropout masks of the vision tower in sampling order; ones for matrices without an update."""
    recorded = variant.under("in.mask.", ours)
    for block in range(4):
        for matrix in "qkv":
            yield recorded.get(f"vision_parts.{block}.a.{matrix}", torch.ones(1, 17, 1))


@pytest.fixture(autouse=True)
def committed() -> Iterator[None]:
    """Use the committed files of the authors' results."""
    with parity.committed():
        yield


@pytest.fixture
def both() -> Variant:
    return Variant("cliplora", "both")


def test_it_is_short() -> None:
    assert len((EXAMPLES / "cliplora.py").read_text().splitlines()) <= 60


def test_parity_of_features_and_logits(both: Variant) -> None:
    method, images = build(both).eval(), both["in.images"]
    with torch.no_grad():
        raw, logits = method.image_features(images), method.logits(images)
        both.check_close("normalised", "out.eval_text_features", method.text_features())
    both.check_close("raw", "out.image_features_raw", raw)
    both.check_close("logits", "out.eval_logits_all", logits)


def test_parity_of_the_whole_training(both: Variant) -> None:
    method, values, settings = build(both), both.settings, TrainingSettings(epochs=1)
    optimisation = ClipLora.Settings().optimisation
    both.check_optimisation(ClipLora.Settings())
    loss = method.loss(both.batch())["total"]
    both.check_close("loss", "loss.total", loss)
    both.check_gradients(method, loss, ours)
    steps = values["total_iters"]
    rates = [rate_at(values["lr"], step, steps, settings, optimisation) for step in range(steps)]
    assert rates == pytest.approx(both["schedule.lr"].tolist(), rel=1e-12, abs=1e-12)
    both.check_trajectory(
        method, optimisation, ours, (5e-5, 2e-7), torch.tensor(rates, dtype=torch.float64), "schedule."
    )


def test_dropout_affects_the_update_alone_and_each_matrix_has_its_own_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    masked = Variant("cliplora", "masked")
    method, recorded = build(masked), masks(masked)

    def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
        assert training and probability == 0.25
        return x * next(recorded)[:, : x.shape[1]] / (1 - probability)

    monkeypatch.setattr("examples.cliplora.dropout", dropout)
    raw = method.train().image_features(masked["in.images"])
    masked.check_close("raw", "out.image_features_raw", raw)
    assert next(recorded, None) is None
