"""The parity checks of VPT, MaPLe and PromptSRC notice mistakes: each is planted, and must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from syncclip.methods import frozen, promptsrc
from syncclip.methods.base import Method
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.maple import Maple
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.vpt import Vpt
from tests.methods import parity, vision_methods
from tests.methods.mistakes import weigh

pytestmark = pytest.mark.slow

Plant = Callable[[pytest.MonkeyPatch], None]


def shallow(patch: pytest.MonkeyPatch) -> None:
    """Deeper blocks get no prompts of their own."""
    patch.setattr(Vpt, "image_features", lambda s, images, *_: s.clip.encode_images(images, [s.vision_prompts[0]]))


def order_of_blocks(patch: pytest.MonkeyPatch) -> None:
    """The first block gets the last block's prompt."""
    patch.setattr(Vpt, "image_features", lambda s, x, *_: s.clip.encode_images(x, list(s.vision_prompts)[::-1]))


def names_as_they_are(patch: pytest.MonkeyPatch) -> None:
    """Underscores stay in the class names."""
    patch.setattr(frozen, "spoken", lambda name: name)


def sentence_without_full_stop(patch: pytest.MonkeyPatch) -> None:
    right = FrozenTexts._encode
    patch.setattr(FrozenTexts, "_encode", lambda s, template: right(s, template.rstrip(".")))


def missing_normalisation(patch: pytest.MonkeyPatch) -> None:
    """Image features enter the scores at their own length."""
    patch.setattr(Method, "scores", lambda s, images, text: s.clip.logit_scale * images @ text.T)


def deep_projections_missing(patch: pytest.MonkeyPatch) -> None:
    """Only the input of the vision tower gets prompts."""
    patch.setattr(Maple, "vision_prompts", lambda s: [s.projections[0](s.text_prompts[0])])


def one_projection_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Maple, "vision_prompts", lambda s: [s.projections[0](prompt) for prompt in s.text_prompts])


def projections_of_the_wrong_block(patch: pytest.MonkeyPatch) -> None:
    right = Maple.vision_prompts
    patch.setattr(Maple, "vision_prompts", lambda s: (found := right(s))[:1] + found[:0:-1])


def projection_without_bias(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Maple,
        "vision_prompts",
        lambda s: [linear(prompt, to.weight) for to, prompt in zip(s.projections, s.text_prompts, strict=True)],
    )


def towers_decoupled(patch: pytest.MonkeyPatch) -> None:
    """Text prompts learn nothing from the vision tower: the loss is the same, only gradients tell."""
    patch.setattr(
        Maple,
        "vision_prompts",
        lambda s: [to(prompt.detach()) for to, prompt in zip(s.projections, s.text_prompts, strict=True)],
    )


def order_of_deep_texts(patch: pytest.MonkeyPatch) -> None:
    """Deeper blocks of the text tower get each other's prompts."""

    def wrong(method: Maple) -> Tensor:
        first, *deeper = method.text_prompts
        return normalize(method.clip.encode_text(method.tokens, [first, *reversed(deeper)]), dim=-1)

    patch.setattr(Maple, "text_features", wrong)


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


MISTAKES: dict[str, list[Plant]] = {
    "vpt": [shallow, order_of_blocks, names_as_they_are, sentence_without_full_stop, missing_normalisation],
    "maple": [
        deep_projections_missing,
        one_projection_for_all,
        projections_of_the_wrong_block,
        projection_without_bias,
        towers_decoupled,
        order_of_deep_texts,
    ],
    "promptsrc": [
        reversed_divergence,
        divergence_an_image,
        divergence_at_another_temperature,
        swapped_weights,
        weight_of_the_text_forgotten,
        weight_of_the_image_forgotten,
        weighted_divergence,
        squared_differences,
        raw_features_compared,
        detached_features,
        detached_student,
        prompted_teacher,
        mean_of_directions,
        one_template,
        epochs_from_zero,
        weights_of_another_sum,
        all_epochs_alike,
        last_epoch_forgotten,
        never_aggregated,
    ],
}
CASES = [
    pytest.param(name, plant, id=f"{name}-{plant.__name__}") for name, plants in MISTAKES.items() for plant in plants
]


@pytest.fixture(scope="module", autouse=True)
def without_mistakes_all_is_well() -> Iterator[None]:
    with parity.committed():
        for name in MISTAKES:
            vision_methods.check(parity.load(name))
        yield


@pytest.mark.parametrize(("name", "plant"), CASES)
def test_parity_catches_a_planted_mistake(name: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity.tiny_clip(), "text_cache", {})  # without features that were encoded correctly
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="differs by"):
        vision_methods.check(parity.load(name))


@pytest.mark.parametrize("name", MISTAKES)
def test_parity_catches_missing_weight_decay(name: str) -> None:
    fixture = parity.load(name)
    careless = parity.Fixture(
        name, fixture.tensors, fixture.info | {"optim": fixture.info["optim"] | {"weight_decay": 0}}
    )
    with pytest.raises(AssertionError, match="parameter differs by"):
        parity.check_steps(careless)
