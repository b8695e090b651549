"""A stranger's method inside the blocks gives the numbers of CLIP-LoRA's authors; see `tests/methods/parity.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from examples.cliplora import ClipLora
from syncclip import jobs
from syncclip.core.trust import trust
from syncclip.recipe.recipe import Recipe
from syncclip.training.optimizers import optimizer_of, rate_at
from syncclip.training.settings import TrainingSettings
from tests.conftest import TinyWorld
from tests.methods import parity

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "examples.cliplora:ClipLora"


class Reference:
    """One variant of the file."""

    def __init__(self, variant: str) -> None:
        with safe_open(parity._path("cliplora"), "pt") as file:
            self.info: dict[str, Any] = json.loads(file.metadata()["info"])
            keys = [key for key in file.keys() if key.startswith(f"{variant}.")]  # noqa: SIM118  (not a dict)
            self.tensors = {key.removeprefix(f"{variant}."): file.get_tensor(key) for key in keys}
        self.settings: dict[str, Any] = self.info[variant]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below a prefix, by our names."""
        return {_ours(key.removeprefix(prefix)): one for key, one in self.tensors.items() if key.startswith(prefix)}

    def method(self) -> ClipLora:
        told = self.settings
        settings = ClipLora.Settings(rank=told["r"], alpha=told["alpha"], dropout=told["dropout_rate"])
        made = ClipLora(parity.tiny_clip(), self.info["classnames"], self.info["n_base"], told["template"], settings)
        missing, unknown = made.load_state_dict(self.under("param."), strict=False)  # an update without B is none
        assert not unknown and (told["params"] != ["q", "k", "v"] or not missing)
        return made

    def masks(self) -> Iterator[Tensor]:
        """Of the vision tower, in the order in which it draws them; all ones where a matrix has no update."""
        found = self.under("in.mask.")
        for block in range(4):
            for matrix in "qkv":
                yield found.get(f"vision_parts.{block}.a.{matrix}", torch.ones(1, 17, 1))

    def differs(self, kind: str, key: str, found: Tensor) -> None:
        parity.differs(kind, key, found, self.tensors[key])


def _ours(theirs: str) -> str:
    tower, block, matrix, half = re.fullmatch(
        r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.([qkv])_proj(?:\.w_lora_([AB]))?", theirs
    ).groups()  # type: ignore[union-attr]
    return f"{'vision' if tower else 'text'}_parts.{block}.{(half or 'A').lower()}.{matrix}"


@pytest.fixture
def both() -> Reference:
    return Reference("both")


def batch(reference: Reference) -> parity.Batch:
    images, labels = reference.tensors["in.images"], reference.tensors["in.labels"]
    return parity.Batch(images, labels, torch.zeros_like(labels), (len(images), 0, 0))


def test_it_is_short() -> None:
    assert len((EXAMPLES / "cliplora.py").read_text().splitlines()) <= 60


def test_parity_of_features_and_logits(both: Reference) -> None:
    method, images = both.method().eval(), both.tensors["in.images"]
    base = both.info["n_base"]
    with torch.no_grad():
        raw, logits = method.image_features(images), method.logits(images)
        both.differs("normalised", "out.eval_text_features", method.text_features())
    both.differs("raw", "out.image_features_raw", raw)
    both.differs("normalised", "out.eval_image_features", torch.nn.functional.normalize(raw, dim=-1))
    both.differs("logits", "out.eval_logits_all", logits)
    both.differs("logits", "out.eval_logits_novel", logits[:, base:])


def test_parity_of_loss_and_gradients(both: Reference) -> None:
    method = both.method()
    loss = method.loss(batch(both))["total"]
    both.differs("loss", "loss.total", loss)
    expected, found = both.under("grad."), parity.gradients(method, loss)
    assert expected.keys() == found.keys()
    for name, gradient in found.items():
        parity.differs("gradient", name, gradient, expected[name])


def test_parity_of_the_whole_training(both: Reference) -> None:
    method, told, settings = both.method(), both.settings, TrainingSettings(epochs=1)
    asked = ClipLora.Settings().optimisation
    assert (asked.weight_decay, asked.eps, asked.last_rate) == (told["weight_decay"], told["eps"], told["eta_min"])
    optimizer = optimizer_of(method.parameters(), told["lr"], settings, asked)
    losses, rates = [], []
    for step in range(told["total_iters"]):
        rates.append(rate_at(told["lr"], step, told["total_iters"], settings, asked))
        optimizer.param_groups[0]["lr"] = rates[-1]
        loss = method.loss(batch(both))["total"]
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert rates == pytest.approx(both.tensors["schedule.lr"].tolist(), rel=1e-12, abs=1e-12)
    both.differs("trajectory", "schedule.loss", torch.stack(losses))
    for name, end in both.under("schedule.param.").items():
        gap = (method.state_dict()[name] - end).abs()
        assert float(gap.max()) <= 5e-5 and float(gap.median()) <= 2e-7, name


def test_masks_fall_on_the_update_alone_and_each_matrix_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    masked = Reference("masked")
    method = masked.method()
    masks = masked.masks()

    def dropout(x: Tensor, chance: float, training: bool) -> Tensor:
        assert training and chance == 0.25
        return x * next(masks)[:, : x.shape[1]] / (1 - chance)

    monkeypatch.setattr("examples.cliplora.dropout", dropout)
    raw = method.train().image_features(masked.tensors["in.images"])
    masked.differs("raw", "out.image_features_raw", raw)
    assert next(masks, None) is None


def test_it_starts_as_zero_shot_clip_and_learns(tiny: TinyWorld, tmp_path: Path) -> None:
    trust(NAME)
    own = {"training.method": NAME, "training.data": "real", "training.epochs": 2, "methods.own.learning_rate": 0.5}
    run = jobs.run_here(Recipe.load(tiny.recipe).with_values(own), str(tmp_path / "run"))
    assert run.name == "ClipLora-real-seed1"
    assert {"base", "novel", "hm"} <= run.results.keys()
    learned = load_file(tmp_path / "run" / "prompts.safetensors")
    assert all(one.abs().sum() > 0 for name, one in learned.items() if ".b." in name)
