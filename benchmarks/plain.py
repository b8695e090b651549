"""Plain formulation of each method, as in its authors' code: the baseline in `methods.py`.

Every class uses the full context length, each domain has its own pass through the image tower, and texts are re-encoded
for every batch, in training and evaluation. Features that the published code computes once are also computed once here:
the texts of zero-shot CLIP and VPT, and the frozen texts of KgCoOp and PromptSRC.

A plain method reads the parameters of our method, so both have the same weights. It supports only the default settings:
learned vectors precede the class name, and all classes share them.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import backward
from torch.nn.functional import (
    cosine_similarity,
    cross_entropy,
    kl_div,
    l1_loss,
    log_softmax,
    normalize,
    relu,
)

from benchmarks.towers import Texts, encode_images, encode_text
from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.coop import CoOp
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.maple import Maple
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.settings import KgCoOpSettings, PromptSrcSettings
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.vpt import Vpt
from syncclip.methods.zeroshot import ZeroShot


class Plain(nn.Module):
    """Plain formulation of a method.

    Attributes:
        passes: number of passes of the published evaluation over the test images.
    """

    passes: ClassVar[int] = 1

    def __init__(self, method: Method) -> None:
        super().__init__()
        object.__setattr__(
            self, "method", method
        )  # not registered as a submodule, so its parameters remain the method's

    @property
    def clip(self) -> PromptedClip:
        return cast(Method, self.method).clip

    @abstractmethod
    def text_features(self, classes: slice = slice(None)) -> Tensor:
        """Return normalised text features (C, D) of the given classes."""

    def image_features(self, images: Tensor) -> Tensor:
        """Return unnormalised image features (B, D)."""
        return encode_images(self.clip, images)

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        return self.clip.logit_scale * normalize(images, dim=-1) @ text.T

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of a test batch."""
        return self.scores(self.image_features(images), self.text_features())

    def classes(self, batch: TrainingBatch) -> slice:
        """Return the classes that a step encodes: only the base classes if all images are real."""
        return slice(cast(Method, self.method).candidates(batch))

    def loss(self, batch: TrainingBatch) -> Tensor:
        return self.loss_with(self.text_features(self.classes(batch)), batch)

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        """Return the loss of a step, given its text features."""
        return cross_entropy(self.scores(self.image_features(batch.images), text), batch.labels)

    def step_in_parts(self, batch: TrainingBatch, text: Tensor, size: int) -> None:
        """Run the forward and backward pass of `loss` with the text tower in parts, to reduce memory.

        Args:
            text: (C, D) text features of `classes(batch)`.
            size: number of classes per part.
        """
        text = text.detach().clone().requires_grad_()
        backward(self.loss_with(text, batch))
        assert text.grad is not None
        for first in range(0, len(text), size):
            rows = slice(first, min(first + size, len(text)))
            features = self.text_features(rows)
            if features.requires_grad:
                backward(features, text.grad[rows])


class PlainZeroShot(Plain):
    method: ZeroShot

    def __init__(self, method: ZeroShot) -> None:
        super().__init__(method)
        self.register_buffer("kept", method.text_features().detach(), persistent=False)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return cast(Tensor, self.kept)[classes]


class PlainVpt(Plain):
    method: Vpt

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return self.method.text_features()[classes]

    def image_features(self, images: Tensor) -> Tensor:
        return encode_images(self.clip, images, list(self.method.vision_prompts))


class PlainPrompted(Plain):
    """Base class of all methods with learned vectors in the text."""

    method: Any

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        self.texts = Texts(method.clip, method.tokens)

    def text_prompts(self) -> list[Tensor]:
        return list(self.method.text_prompts)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(encode_text(self.clip, self.texts, self.text_prompts(), classes), dim=-1)


class PlainCoOp(PlainPrompted):
    method: CoOp


class PlainKgCoOp(PlainCoOp):
    method: KgCoOp

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        settings = cast(KgCoOpSettings, self.method.settings)
        likeness = cosine_similarity(text, self.method.frozen_texts()[: len(text)], dim=1, eps=1e-7)
        return super().loss_with(text, batch) + settings.knowledge_weight * (1 - likeness.mean())


class PlainCoCoOp(PlainPrompted):
    """CoCoOp, computed image by image, since each image has its own texts."""

    method: CoCoOp

    def logits(self, images: Tensor) -> Tensor:
        return self.conditional_scores(self.image_features(images), slice(None))

    def loss(self, batch: TrainingBatch) -> Tensor:
        features = self.image_features(batch.images)
        return cross_entropy(self.conditional_scores(features, self.classes(batch)), batch.labels)

    def step_in_parts(self, batch: TrainingBatch, text: Tensor, size: int) -> None:  # noqa: ARG002
        """Run the forward and backward pass image by image."""
        features, classes = self.image_features(batch.images), self.classes(batch)
        for feature, label in zip(torch.split(features, 1), torch.split(batch.labels, 1), strict=True):
            backward(cross_entropy(self.conditional_scores(feature, classes), label) / len(features))

    def conditional_scores(self, images: Tensor, classes: slice) -> Tensor:
        """Return the scores (B, C) for unnormalised image features (B, D)."""
        features = normalize(images, dim=-1)
        contexts = self.method.text_prompts[0] + self.method.meta_net(features)[:, None]
        rows = []
        for feature, context in zip(features, contexts, strict=True):
            text = normalize(encode_text(self.clip, self.texts, [context], classes), dim=-1)
            rows.append(self.clip.logit_scale * feature @ text.T)
        return torch.stack(rows)


class PlainIvlp(PlainPrompted):
    method: Ivlp

    def image_features(self, images: Tensor) -> Tensor:
        return encode_images(self.clip, images, list(self.method.vision_prompts))


class PlainMaple(PlainPrompted):
    method: Maple

    def image_features(self, images: Tensor) -> Tensor:
        return encode_images(self.clip, images, self.method.vision_prompts())


class PlainPromptSrc(PlainIvlp):
    method: PromptSrc

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        settings = cast(PromptSrcSettings, self.method.settings)
        frozen_text = self.method.frozen_texts()[: len(text)]
        image = normalize(self.image_features(batch.images), dim=-1)
        with torch.no_grad():
            frozen_image = normalize(encode_images(self.clip, batch.images), dim=-1)
            frozen_scores = self.scores(frozen_image, frozen_text)
        scores = self.scores(image, text)
        divergence = kl_div(log_softmax(scores, 1), log_softmax(frozen_scores, 1), reduction="sum", log_target=True)
        return (
            cross_entropy(scores, batch.labels)
            + settings.text_weight * l1_loss(text, frozen_text)
            + settings.image_weight * l1_loss(image, frozen_image)
            + settings.logits_weight * divergence / scores.numel()
        )


class PlainSyncClip(PlainIvlp):
    method: SyncClip
    passes = 2  # base-to-novel and open vocabulary

    def synthetic_features(self, images: Tensor) -> Tensor:
        pairs = zip(self.method.synthetic_prompts, self.method.vision_prompts, strict=True)
        return encode_images(self.clip, images, [torch.cat([own, real[len(own) :]]) for own, real in pairs])

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        settings, size = self.method.settings, batch.sizes[0]
        real = self.image_features(batch.images[:size])
        synthetic = self.synthetic_features(batch.images[size:])
        labels, seen_labels, novel_labels = torch.split(batch.labels, list(batch.sizes))
        seen, novel = self.scores(synthetic[:size], text), self.scores(synthetic[size:], text)
        distance = (synthetic[:size, None] - real).abs().sum(dim=2) / real.shape[1]
        own = distance.diagonal()
        other = distance.masked_fill(labels[:, None] == labels, torch.inf).amin(dim=1)
        hinge = relu(own - torch.where(other.isinf(), own, other)) + own
        return (
            cross_entropy(self.scores(real, text[: self.method.base]), labels)
            + settings.synthetic_weight * (cross_entropy(seen, seen_labels) + cross_entropy(novel, novel_labels))
            + settings.alignment_weight * hinge.mean()
        )


PLAIN: dict[str, type[Any]] = {
    "zeroshot": PlainZeroShot,
    "coop": PlainCoOp,
    "cocoop": PlainCoCoOp,
    "kgcoop": PlainKgCoOp,
    "vpt": PlainVpt,
    "ivlp": PlainIvlp,
    "maple": PlainMaple,
    "promptsrc": PlainPromptSrc,
    "syncclip": PlainSyncClip,
}
"""Prompt-learning method -> plain formulation; `plain_weights.ALL` contains all methods."""
