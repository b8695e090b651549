"""A stranger's method inside the blocks gives the numbers of CLIP-LoRA's authors; see `tests/methods/parity.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from examples.cliplora import ClipLora
from syncclip import jobs
from syncclip.core.trust import trust
from syncclip.recipe.recipe import Recipe
from syncclip.training.optimizers import rate_at
from syncclip.training.settings import TrainingSettings
from tests.conftest import TinyWorld
from tests.methods import parity
from tests.methods.test_cliplora import ours
from tests.methods.variants import Variant

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "examples.cliplora:ClipLora"


def build(variant: Variant) -> ClipLora:
    told = variant.settings
    settings = ClipLora.Settings(rank=told["r"], alpha=told["alpha"], dropout=told["dropout_rate"])
    made = ClipLora(parity.tiny_clip(), variant.classnames, variant.base, told["template"], settings)
    missing, unknown = made.load_state_dict(variant.under("param.", ours), strict=False)  # an update without B is none
    assert not unknown and (told["params"] != ["q", "k", "v"] or not missing)
    return made


def masks(variant: Variant) -> Iterator[Tensor]:
    """Of the vision tower, in the order in which it draws them; all ones where a matrix has no update."""
    found = variant.under("in.mask.", ours)
    for block in range(4):
        for matrix in "qkv":
            yield found.get(f"vision_parts.{block}.a.{matrix}", torch.ones(1, 17, 1))


@pytest.fixture(autouse=True)
def committed() -> Iterator[None]:
    """The example has no settings but those of the committed files."""
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
        both.differs("normalised", "out.eval_text_features", method.text_features())
    both.differs("raw", "out.image_features_raw", raw)
    both.differs("logits", "out.eval_logits_all", logits)


def test_parity_of_the_whole_training(both: Variant) -> None:
    method, told, settings = build(both), both.settings, TrainingSettings(epochs=1)
    asked = ClipLora.Settings().optimisation
    both.check_optimisation(ClipLora.Settings())
    loss = method.loss(both.batch())["total"]
    both.differs("loss", "loss.total", loss)
    both.check_gradients(method, loss, ours)
    steps = told["total_iters"]
    rates = [rate_at(told["lr"], step, steps, settings, asked) for step in range(steps)]
    assert rates == pytest.approx(both["schedule.lr"].tolist(), rel=1e-12, abs=1e-12)
    both.check_course(method, asked, ours, (5e-5, 2e-7), torch.tensor(rates, dtype=torch.float64), "schedule.")


def test_masks_fall_on_the_update_alone_and_each_matrix_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    masked = Variant("cliplora", "masked")
    method, drawn = build(masked), masks(masked)

    def dropout(x: Tensor, chance: float, training: bool) -> Tensor:
        assert training and chance == 0.25
        return x * next(drawn)[:, : x.shape[1]] / (1 - chance)

    monkeypatch.setattr("examples.cliplora.dropout", dropout)
    raw = method.train().image_features(masked["in.images"])
    masked.differs("raw", "out.image_features_raw", raw)
    assert next(drawn, None) is None


def test_it_starts_as_zero_shot_clip_and_learns(tiny: TinyWorld, tmp_path: Path) -> None:
    trust(NAME)
    own = {"training.method": NAME, "training.data": "real", "training.epochs": 2, "methods.custom.learning_rate": 0.5}
    run = jobs.run_here(Recipe.load(tiny.recipe).with_values(own), str(tmp_path / "run"))
    assert run.name == "ClipLora-real-seed1"
    assert {"base", "novel", "hm"} <= run.results.keys()
    learned = load_file(tmp_path / "run" / "prompts.safetensors")
    assert all(one.abs().sum() > 0 for name, one in learned.items() if ".b." in name)
