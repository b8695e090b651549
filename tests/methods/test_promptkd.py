"""PromptKD: parity with the published code, soft labels, batch norm and class vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.parallel import WorkSplit
from syncclip.methods.promptkd import PromptKd, distillation
from tests.methods import distilled
from tests.methods.classes import DATASET, batch
from tests.methods.distilled import Distilled
from tests.methods.parity import Batch


def build(clip: PromptedClip, **values: Any) -> PromptKd:
    """A student of a teacher with five dimensions."""
    method = build_method("promptkd", clip, DATASET, PromptKd.Settings(**{"teacher_dim": 5, **values}), seed=1)
    assert isinstance(method, PromptKd)
    method.meet_teacher(normalize(torch.randn(5, 5), dim=-1))
    return method


def labelled() -> Batch:
    """A batch with soft labels."""
    return batch()._replace(teacher=torch.rand(12, 5).softmax(dim=1))


@pytest.mark.parametrize("variant", distilled.VARIANTS)
@pytest.mark.parametrize(
    "check", [distilled.check_teacher, distilled.check_student, distilled.check_loss, distilled.check_steps]
)
def test_promptkd_parity(variant: str, check: Callable[[Distilled], None]) -> None:
    check(Distilled(variant))


def test_distillation_equals_a_loop() -> None:
    teacher, scores, temperature = torch.randn(2, 4), torch.randn(2, 4), 3.0
    p, q = (teacher / temperature).softmax(dim=1), (scores / temperature).softmax(dim=1)
    expected = [temperature**2 * sum(p[b, c] * (p[b, c].log() - q[b, c].log()) for c in range(4)) for b in range(2)]
    torch.testing.assert_close(distillation(teacher.softmax(dim=1), scores, temperature), torch.stack(expected))


def test_images_without_soft_labels_have_no_loss() -> None:
    scores = torch.randn(3, 4, requires_grad=True)
    teacher = torch.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0], [0.25] * 4])
    losses = distillation(teacher, scores, 2.0)
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert losses[0] == 0 and not gradient[0].any()
    assert (losses[1:] > 0).all() and gradient[1:].abs().amin() > 0 and losses.isfinite().all()


def test_real_images_are_ignored(clip: PromptedClip) -> None:
    method, images = build(clip), labelled()
    synthetic = images._replace(images=images.images[4:], sizes=(0, 4, 4), teacher=images.teacher[4:])
    assert torch.equal(method.loss(images)["total"], method.loss(synthetic)["total"])


def test_chunks_update_the_running_statistics_once(clip: PromptedClip) -> None:
    methods, images = [build(clip), build(clip)], labelled()
    methods[1].load_state_dict(methods[0].state_dict())
    methods[1].work = WorkSplit(pieces=3)
    for method in methods:
        method.loss(images)["total"].backward()
    torch.testing.assert_close(methods[1].running_mean, methods[0].running_mean)
    torch.testing.assert_close(methods[1].narrow.weight.grad, methods[0].narrow.weight.grad, rtol=1e-3, atol=1e-3)


def test_evaluation_does_not_change_the_running_statistics(clip: PromptedClip) -> None:
    method, images = build(clip).eval(), labelled()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.logits(images.images)
    method.loss(images)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_class_vectors_and_statistics_have_no_gradient(clip: PromptedClip) -> None:
    method = build(clip)
    vectors, weight = method.class_vectors.clone(), method.narrow.weight.clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    method.loss(labelled())["total"].backward()
    optimizer.step()
    assert torch.equal(method.class_vectors, vectors) and not torch.equal(method.narrow.weight, weight)
    without = {name for name, value in method.named_parameters() if value.grad is None}
    assert without == {"class_vectors", "running_mean", "running_var"}


def test_state_dict_contains_the_class_vectors(clip: PromptedClip) -> None:
    method = build(clip)
    assert method.text_features().shape == (5, 5) and method.text_features(slice(2)).shape == (2, 5)
    loaded = build_method("promptkd", clip, DATASET, method.settings)
    loaded.load_state_dict(method.state_dict())
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(loaded.eval().logits(images), method.eval().logits(images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (batch(), "requires a teacher"),
        (batch(0, 1, 0)._replace(teacher=torch.full((1, 5), 0.2)), "batch norm requires at least two"),
    ],
)
def test_invalid_batches(clip: PromptedClip, images: Batch, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(clip).loss(images)
