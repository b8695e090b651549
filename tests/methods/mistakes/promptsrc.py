"""Mistakes in PromptSRC."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.methods import promptsrc
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.promptsrc import PromptSrc
from tests.methods import parity, vision_methods
from tests.methods.mistakes import weigh


def reversed_divergence(patch: pytest.MonkeyPatch) -> None:
    right = promptsrc.divergence
    patch.setattr(promptsrc, "divergence", lambda teacher, student: right(student, teacher))


def divergence_an_image(patch: pytest.MonkeyPatch) -> None:
    """Divided by the number of images, not by that of the classes too."""
    right = promptsrc.divergence
    patch.setattr(promptsrc, "divergence", lambda teacher, student: right(teacher, student) * teacher.shape[1])


def divergence_at_another_temperature(patch: pytest.MonkeyPatch) -> None:
    right = promptsrc.divergence
    patch.setattr(promptsrc, "divergence", lambda teacher, student: right(teacher / 2, student / 2))


def swapped_weights(patch: pytest.MonkeyPatch) -> None:
    swapped = {"text": "image", "image": "text", "logits": "logits"}
    weigh(patch, PromptSrc, lambda weights: {name: weights[other] for name, other in swapped.items()})


def weight_of_the_text_forgotten(patch: pytest.MonkeyPatch) -> None:
    weigh(patch, PromptSrc, lambda weights: {**weights, "text": 1.0})


def weight_of_the_image_forgotten(patch: pytest.MonkeyPatch) -> None:
    weigh(patch, PromptSrc, lambda weights: {**weights, "image": 1.0})


def weighted_divergence(patch: pytest.MonkeyPatch) -> None:
    weigh(patch, PromptSrc, lambda weights: {**weights, "logits": 2.0})


def squared_differences(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promptsrc, "l1_loss", torch.nn.functional.mse_loss)


def raw_features_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promptsrc, "normalize", lambda features, dim: features)


def detached_features(patch: pytest.MonkeyPatch) -> None:
    """Consistency of features teaches nothing: the loss is the same, only gradients tell."""
    right = promptsrc.l1_loss
    patch.setattr(promptsrc, "l1_loss", lambda ours, frozen: right(ours.detach(), frozen))


def detached_student(patch: pytest.MonkeyPatch) -> None:
    """Consistency of logits teaches nothing."""
    right = promptsrc.divergence
    patch.setattr(promptsrc, "divergence", lambda teacher, student: right(teacher, student.detach()))


def prompted_teacher(patch: pytest.MonkeyPatch) -> None:
    """The teacher's images are seen with prompts."""
    right = PromptSrc.terms

    def wrong(method: PromptSrc, batch: parity.Batch) -> dict[str, Tensor]:
        with pytest.MonkeyPatch.context() as inner:
            encode = method.clip.encode_images
            inner.setattr(method.clip, "encode_images", lambda x, *_: encode(x, list(method.vision_prompts)))
            return right(method, batch)

    patch.setattr(PromptSrc, "terms", wrong)


def mean_of_directions(patch: pytest.MonkeyPatch) -> None:
    """Each template counts the same, as in CLIP's own ensemble."""
    right = FrozenTexts._encode
    patch.setattr(FrozenTexts, "_encode", lambda s, template: normalize(right(s, template), dim=-1))


def one_template(patch: pytest.MonkeyPatch) -> None:
    right = FrozenTexts._encode
    patch.setattr(FrozenTexts, "_encode", lambda s, template: right(s, s.templates[0]))


def epochs_from_zero(patch: pytest.MonkeyPatch) -> None:
    right = promptsrc.gaussian_weights
    patch.setattr(promptsrc, "gaussian_weights", lambda epochs, mean, std: right(epochs, mean + 1, std))


def weights_of_another_sum(patch: pytest.MonkeyPatch) -> None:
    right = promptsrc.gaussian_weights
    patch.setattr(promptsrc, "gaussian_weights", lambda *shape: [1.01 * weight for weight in right(*shape)])


def all_epochs_alike(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(promptsrc, "gaussian_weights", lambda epochs, mean, std: [1 / epochs] * epochs)


def last_epoch_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The prompts become their average before the last epoch has entered it."""
    right = promptsrc.gaussian_weights
    patch.setattr(promptsrc, "gaussian_weights", lambda *shape: [*right(*shape)[:-1], 0.0])


def never_aggregated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PromptSrc, "epoch_ended", Ivlp.epoch_ended)


def check(_: pytest.MonkeyPatch) -> None:
    vision_methods.check(parity.load("promptsrc"))
