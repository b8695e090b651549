"""Each method as its authors' code computes it: what the race in `methods.py` is run against.

The full context for every class, one pass through the vision tower a domain, texts encoded anew for every batch, at
training and at evaluation. What the published code computes once is computed once here too: the sentences of zero-shot
CLIP and VPT, and the text teachers of KgCoOp and PromptSRC. PromptSRC's image teacher runs at every step.

A plain method reads the parameters of one of ours, so both have the same weights. It serves the default settings:
learned vectors stand before the class name, and all classes share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    cosine_similarity,
    cross_entropy,
    kl_div,
    l1_loss,
    log_softmax,
    normalize,
    pad,
    relu,
)

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.coop import CoOp
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.maple import Maple
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.vpt import Vpt
from syncclip.methods.zeroshot import ZeroShot


class Texts(nn.Module):
    """Embedded texts of full length, as the published code keeps them: (C, context, width)."""

    embeddings: Tensor
    ends: Tensor

    def __init__(self, clip: PromptedClip, tokens: PromptTokens) -> None:
        super().__init__()
        free = tokens.slots.shape[1]
        assert (tokens.slots.cpu() == torch.arange(1, free + 1)).all(), "learned vectors stand before the class name"
        ids = pad(tokens.ids, (0, clip.context - tokens.ids.shape[1])).to(clip.device)
        self.register_buffer("embeddings", clip.model.token_embedding(ids).detach(), persistent=False)
        self.register_buffer("ends", tokens.read.clone(), persistent=False)


class Plain(nn.Module):
    """A method of ours, computed plainly.

    Attributes:
        passes: so often the published evaluation runs over the test pictures.
    """

    passes: ClassVar[int] = 1

    def __init__(self, method: Method) -> None:
        super().__init__()
        object.__setattr__(self, "method", method)  # past nn.Module: its parameters stay its own

    @property
    def clip(self) -> PromptedClip:
        return cast(Method, self.method).clip

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        """(C, D) of some classes, of length 1."""
        raise NotImplementedError

    def image_features(self, images: Tensor) -> Tensor:
        """(B, D), not normalised."""
        return encode_images(self.clip, images)

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        return self.clip.logit_scale * normalize(images, dim=-1) @ text.T

    def logits(self, images: Tensor) -> Tensor:
        """(B, C) of one batch at evaluation."""
        return self.scores(self.image_features(images), self.text_features())

    def classes(self, batch: TrainingBatch) -> slice:
        """The classes that a step encodes: of the base-to-novel trainings, the base classes alone."""
        return slice(cast(Method, self.method).candidates(batch))

    def loss(self, batch: TrainingBatch) -> Tensor:
        return self.loss_with(self.text_features(self.classes(batch)), batch)

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        """The loss of a step whose texts are encoded already."""
        return cross_entropy(self.scores(self.image_features(batch.images), text), batch.labels)


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
    """What all methods with learned vectors among the text share."""

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
        settings = cast(KgCoOp.Settings, self.method.settings)
        likeness = cosine_similarity(text, self.method.frozen_texts()[: len(text)], dim=1, eps=1e-7)
        return super().loss_with(text, batch) + settings.knowledge_weight * (1 - likeness.mean())


class PlainCoCoOp(PlainPrompted):
    """Picture by picture: each has texts of its own."""

    method: CoCoOp

    def logits(self, images: Tensor) -> Tensor:
        return self._logits(images, slice(None))

    def loss(self, batch: TrainingBatch) -> Tensor:
        return cross_entropy(self._logits(batch.images, self.classes(batch)), batch.labels)

    def _logits(self, images: Tensor, classes: slice) -> Tensor:
        features = normalize(self.image_features(images), dim=-1)
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
        settings = cast(PromptSrc.Settings, self.method.settings)
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
    passes = 2  # one of the base-to-novel protocol, one of the open vocabulary

    def synthetic_features(self, images: Tensor) -> Tensor:
        pairs = zip(self.method.synthetic_prompts, self.method.vision_prompts, strict=True)
        return encode_images(self.clip, images, [torch.cat([own, real[len(own) :]]) for own, real in pairs])

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        settings, size = cast(SyncClip.Settings, self.method.settings), batch.sizes[0]
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


def encode_text(clip: PromptedClip, texts: Texts, prompts: Sequence[Tensor], classes: slice = slice(None)) -> Tensor:
    """(C, D), not normalised: every token of the context through every block."""
    tower = clip.model
    embeddings, ends = texts.embeddings[classes], texts.ends[classes]

    def with_prompt(x: Tensor, vectors: Tensor) -> Tensor:
        placed = vectors.expand(len(x), -1, -1).to(x.dtype)
        return torch.cat([x[:, :1], placed, x[:, 1 + placed.shape[1] :]], dim=1)

    with _precision(clip):
        x = with_prompt(embeddings, prompts[0]) + tower.positional_embedding
        for i, block in enumerate(tower.transformer.resblocks):
            if 0 < i < len(prompts):
                x = with_prompt(x, prompts[i])
            x = block(x, attn_mask=tower.attn_mask)
        x = tower.ln_final(x)
        features: Tensor = x[torch.arange(len(x), device=x.device), ends] @ tower.text_projection
    return features.float()


def encode_images(clip: PromptedClip, images: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
    """(B, D), not normalised: every token through every block."""
    tower, batch = clip.model.visual, len(images)
    with _precision(clip):
        patches = tower.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.expand(batch, 1, -1), patches], dim=1) + tower.positional_embedding
        given = x.shape[1]
        if prompts:
            x = torch.cat([x, prompts[0].expand(batch, -1, -1).to(x.dtype)], dim=1)
        x = tower.ln_pre(x)
        for i, block in enumerate(tower.transformer.resblocks):
            if 0 < i < len(prompts):
                x = torch.cat([x[:, :given], prompts[i].expand(batch, -1, -1).to(x.dtype)], dim=1)
            x = block(x)
        features: Tensor = tower.ln_post(x[:, 0]) @ tower.proj
    return features.float()


def _precision(clip: PromptedClip) -> torch.autocast:
    return torch.autocast(clip.device.type, torch.bfloat16, enabled=clip.backbone.precision == "bf16")


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
"""Of every method in `METHODS`."""
