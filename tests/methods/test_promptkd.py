"""PromptKD: held against its published code, and what it does with real images, ranks and results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.distillation import distillation
from syncclip.methods.parallel import WorkSplit
from syncclip.methods.promptkd import PromptKd
from tests.methods import distilled
from tests.methods.classes import DATASET, batch


def built(clip: PromptedClip, **values: Any) -> PromptKd:
    """With a teacher of five numbers a class."""
    method = build_method("promptkd", clip, DATASET, PromptKd.Settings(**{"teacher_dim": 5, **values}), seed=1)
    assert isinstance(method, PromptKd)
    method.meet_teacher(normalize(torch.randn(5, 5), dim=-1))
    return method


@pytest.mark.parametrize("variant", distilled.VARIANTS)
def test_parity_of_the_teacher(variant: str) -> None:
    distilled.check_teacher(distilled.Distilled(variant))


@pytest.mark.parametrize("variant", distilled.VARIANTS)
def test_parity_of_features_and_logits(variant: str) -> None:
    distilled.check_student(distilled.Distilled(variant))


@pytest.mark.parametrize("variant", distilled.VARIANTS)
def test_parity_of_losses_and_gradients(variant: str) -> None:
    distilled.check_loss(distilled.Distilled(variant))


@pytest.mark.parametrize("variant", distilled.VARIANTS)
def test_parity_of_steps_and_running_statistics(variant: str) -> None:
    distilled.check_steps(distilled.Distilled(variant))


def test_a_divergence_is_what_a_loop_over_the_table_gives() -> None:
    teacher, scores, heat = torch.randn(2, 4), torch.randn(2, 4), 3.0
    p, q = (teacher / heat).softmax(dim=1), (scores / heat).softmax(dim=1)
    expected = [heat**2 * sum(p[b, c] * (p[b, c].log() - q[b, c].log()) for c in range(4)) for b in range(2)]
    torch.testing.assert_close(distillation(teacher.softmax(dim=1), scores, heat), torch.stack(expected))


def test_an_image_that_the_teacher_knows_nothing_of_costs_nothing_and_teaches_nothing() -> None:
    scores = torch.randn(3, 4, requires_grad=True)
    teacher = torch.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0], [0.25] * 4])
    each = distillation(teacher, scores, 2.0)
    (gradient,) = torch.autograd.grad(each.sum(), scores)
    assert each[0] == 0 and not gradient[0].any()
    assert (each[1:] > 0).all() and gradient[1:].abs().amin() > 0 and each.isfinite().all()


def test_real_images_take_no_part(clip: PromptedClip) -> None:
    method, given = built(clip), batch()
    teacher = torch.rand(12, 5).softmax(dim=1)
    alone = given._replace(images=given.images[4:], sizes=(0, 4, 4), teacher=teacher[4:])
    assert torch.equal(method.loss(given._replace(teacher=teacher))["total"], method.loss(alone)["total"])


def test_images_in_pieces_update_the_running_statistics_once(clip: PromptedClip) -> None:
    methods, given = [built(clip), built(clip)], batch()._replace(teacher=torch.rand(12, 5).softmax(dim=1))
    methods[1].load_state_dict(methods[0].state_dict())
    methods[1].work = WorkSplit(pieces=3)
    for method in methods:
        method.loss(given)["total"].backward()
    torch.testing.assert_close(methods[1].running_mean, methods[0].running_mean)
    torch.testing.assert_close(methods[1].narrow.weight.grad, methods[0].narrow.weight.grad, rtol=1e-3, atol=1e-3)


def test_evaluation_leaves_the_running_statistics_alone(clip: PromptedClip) -> None:
    method, given = built(clip).eval(), batch()._replace(teacher=torch.rand(12, 5).softmax(dim=1))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.logits(given.images)
    method.loss(given)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_an_optimiser_leaves_what_has_no_gradient_alone(clip: PromptedClip) -> None:
    method, given = built(clip), batch()._replace(teacher=torch.rand(12, 5).softmax(dim=1))
    vectors, weight = method.class_vectors.clone(), method.narrow.weight.clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    method.loss(given)["total"].backward()
    optimizer.step()
    assert torch.equal(method.class_vectors, vectors) and not torch.equal(method.narrow.weight, weight)
    without = {"class_vectors", "running_mean", "running_var"}
    assert {name for name, value in method.named_parameters() if value.grad is None} == without


def test_class_vectors_are_the_teachers_and_come_with_the_results(clip: PromptedClip) -> None:
    method = built(clip)
    assert method.text_features().shape == (5, 5) and method.text_features(slice(2)).shape == (2, 5)
    again = build_method("promptkd", clip, DATASET, method.settings)
    again.load_state_dict(method.state_dict())
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(again.eval().logits(images), method.eval().logits(images))


def test_without_a_teacher_nothing_is_learned(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match=r"requires a teacher"):
        built(clip).loss(batch())


def test_a_single_image_is_too_few_for_batch_norm(clip: PromptedClip) -> None:
    given = batch(0, 1, 0)._replace(teacher=torch.full((1, 5), 0.2))
    with pytest.raises(UserError, match="batch norm needs two"):
        built(clip).loss(given)
