"""Mistakes in PromptKD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize

from syncclip.methods import promptkd
from syncclip.methods.promptkd import PromptKd
from tests.methods import distilled, parity

right = promptkd.distillation


def reversed_divergence(patch: pytest.MonkeyPatch) -> None:
    """The teacher's from the student."""

    def wrong(teacher: Tensor, scores: Tensor, heat: float) -> Tensor:
        student, target = (scores / heat).softmax(dim=1), log_softmax(teacher.log() / heat, dim=1)
        return heat**2 * kl_div(target, student, reduction="none").sum(dim=1)

    patch.setattr(promptkd, "distillation", wrong)


def teachers_scale(patch: pytest.MonkeyPatch) -> None:
    """The student's cosines are multiplied by the teacher's scale."""
    scale = parity.load(distilled.FILE).info["main"]["teacher"]["logit_scale"]
    factor = torch.tensor(scale).exp()
    patch.setattr(PromptKd, "scores", lambda s, x, text: factor * normalize(x, dim=-1) @ text.T)


def running_statistics_in_training(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PromptKd, "training_features", PromptKd.image_features)


def biased_variance(patch: pytest.MonkeyPatch) -> None:
    """The running variance follows the one that divides by n."""

    def wrong(method: PromptKd, images: Tensor) -> Tensor:
        before = method.running_var.clone()
        features, count = features_of(method, images), len(images)
        with torch.no_grad():
            follows = (method.running_var - (1 - promptkd.MOMENTUM) * before) * (count - 1) / count
            method.running_var.copy_((1 - promptkd.MOMENTUM) * before + follows)
        return features

    features_of = PromptKd.training_features
    patch.setattr(PromptKd, "training_features", wrong)


def no_square_of_the_temperature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promptkd, "distillation", lambda p, scores, heat: right(p, scores, heat) / heat**2)


def temperature_of_the_student_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promptkd, "distillation", lambda p, scores, heat: heat**2 * right(p, scores / heat, 1.0))


def divided_by_images_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promptkd, "distillation", lambda p, scores, heat: right(p, scores, heat) * scores.shape[1])


def base_classes_only(patch: pytest.MonkeyPatch) -> None:
    def wrong(teacher: Tensor, scores: Tensor, heat: float) -> Tensor:
        base = teacher[:, :4] / teacher[:, :4].sum(dim=1, keepdim=True)
        return right(base, scores[:, :4], heat)

    patch.setattr(promptkd, "distillation", wrong)


def teacher_that_learns(patch: pytest.MonkeyPatch) -> None:
    """The class vectors have a gradient."""
    patch.setattr(PromptKd, "text_features", lambda s, classes=slice(None): s.class_vectors[classes])


def normalised_before_the_projector(patch: pytest.MonkeyPatch) -> None:
    raw = PromptKd.raw_features
    patch.setattr(PromptKd, "raw_features", lambda s, images: normalize(raw(s, images), dim=-1))


def check(_: pytest.MonkeyPatch) -> None:
    distilled.check("main")
