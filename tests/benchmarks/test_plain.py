"""Parity of every method with its plain formulation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain import Plain
from benchmarks.plain_weights import ALL
from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import METHODS, Method, build_method
from syncclip.methods.cliplora import ClipLora
from tests.methods.classes import NOT_LEARNED, Classes
from tests.methods.parity import Batch
from tests.worlds.clip import make_clip_folder

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

LEARNING = [name for name, method in METHODS.items() if method.Settings().trains]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> PromptedClip:
    folder = make_clip_folder(tmp_path_factory.mktemp("clip"), context=40, dim=64)
    return PromptedClip(load_backbone(BackboneSettings(name=str(folder))))


def build(name: str, clip: PromptedClip) -> tuple[Method, Plain, Batch]:
    """A method, its plain formulation and a training batch."""
    settings = ClipLora.Settings(dropout=0.0) if name == "cliplora" else None  # random masks would differ
    method = build_method(name, clip, Classes(), settings, seed=1)
    method.step_begins(0, 2)
    chance = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in method.named_parameters():
            if key != "classifier":  # would start the second stage of 2SFS
                parameter += 0.3 * torch.randn(parameter.shape, generator=chance)
    sizes = (4, 4, 4) if name == "syncclip" else (4, 0, 0)
    labels = torch.tensor([0, 1, 1, 2])
    batch = Batch(
        images=torch.randn(sum(sizes), 3, 32, 32, generator=chance),
        labels=torch.cat([labels, labels, torch.tensor([3, 4, 4, 3])])[: sum(sizes)],
        domains=torch.tensor([0] * 4 + [1] * 8)[: sum(sizes)],
        sizes=sizes,
    )
    if method.settings.uses_teacher:
        teacher = torch.rand(4, 5, generator=chance).softmax(dim=1)
        batch = batch._replace(domains=torch.ones(4, dtype=torch.long), sizes=(0, 4, 0), teacher=teacher)
    return method, ALL[name](method), batch


def learned(method: Method) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in method.named_parameters() if name not in NOT_LEARNED]


def gradients(method: Method, loss: Tensor) -> dict[str, Tensor]:
    names, values = zip(*learned(method), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


@pytest.mark.parametrize("name", LEARNING)
def test_losses_and_gradients_are_equal(clip: PromptedClip, name: str) -> None:
    method, plain, batch = build(name, clip)
    ours, theirs = method.loss(batch)["total"], plain.loss(batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=2e-5)
    expected = gradients(method, theirs)
    for parameter, gradient in gradients(method, ours).items():
        largest = float(expected[parameter].abs().max())
        assert largest > 0, parameter
        torch.testing.assert_close(gradient, expected[parameter], rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("name", METHODS)
def test_logits_of_a_test_batch_are_equal(clip: PromptedClip, name: str) -> None:
    method, plain, batch = build(name, clip)
    method.eval()
    with torch.no_grad():
        torch.testing.assert_close(method.logits(batch.images), plain.logits(batch.images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LEARNING)
def test_a_step_in_parts_has_the_gradients_of_the_whole_step(clip: PromptedClip, name: str) -> None:
    method, plain, batch = build(name, clip)
    expected = gradients(method, plain.loss(batch))
    plain.step_in_parts(batch, plain.text_features(plain.classes(batch)), size=2)
    for parameter, value in learned(method):
        torch.testing.assert_close(value.grad, expected[parameter], rtol=1e-3, atol=1e-5)
