"""Plain formulations of methods that learn weights, heads, adapters or tokens; see `plain.py`."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    batch_norm,
    cosine_similarity,
    cross_entropy,
    dropout,
    kl_div,
    layer_norm,
    linear,
    log_softmax,
    normalize,
    one_hot,
    relu,
    scaled_dot_product_attention,
)

from benchmarks.plain import PLAIN, Plain, PlainPrompted
from benchmarks.towers import Texts, encode_images, encode_images_with, encode_text, encode_text_with, plain_block
from syncclip.methods.base import TrainingBatch
from syncclip.methods.classmeans import ClassMeans
from syncclip.methods.cliplora import ClipLora, LowRank
from syncclip.methods.mma import Adapter, Mma
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.probe import Probe
from syncclip.methods.promptkd import PromptKd
from syncclip.methods.settings import TcpSettings
from syncclip.methods.tcp import Tcp
from syncclip.methods.tip import Tip
from syncclip.methods.twostage import Norms, TwoStage


class PlainProbe(Plain):
    method: Probe

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.method.vectors[classes], dim=-1)


class PlainTip(Plain):
    method: Tip

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return self.method.text_features()[classes]

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        """Return scores, with the cache as matrices of keys and of values (one-hot labels, zero for empty slots)."""
        classes, slots, _ = self.method.keys.shape
        keys = self.method.keys.flatten(0, 1)
        values = one_hot(torch.arange(classes, device=keys.device).repeat_interleave(slots), classes)
        values = values * keys.any(dim=1, keepdim=True)
        affinity = normalize(images, dim=-1) @ keys.T
        cached = torch.exp(-(self.method.beta - self.method.beta * affinity)) @ values.to(affinity)
        return super().scores(images, text) + self.method.alpha * cached[:, : len(text)]


class PlainClassMeans(Plain):
    method: ClassMeans

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return self.method.text_features(classes)


class PlainAdapted(Plain):
    """Base class of all methods with parts inside the transformer blocks."""

    method: Any

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        self.texts = Texts(method.clip, method.texts)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        run = partial(self.block, self.method.text_parts)
        return normalize(encode_text(self.clip, self.texts, (), classes, run), dim=-1)

    def image_features(self, images: Tensor) -> Tensor:
        return encode_images(self.clip, images, (), partial(self.block, self.method.vision_parts))

    @abstractmethod
    def block(self, parts: nn.ModuleList, block: Any, x: Tensor, mask: Tensor | None, at: int) -> Tensor:
        """Run a block with its part; see `towers.Run`."""


class PlainClipLora(PlainAdapted):
    method: ClipLora

    def block(self, parts: nn.ModuleList, block: Any, x: Tensor, mask: Tensor | None, at: int) -> Tensor:
        part, attention, normed = cast(LowRank, parts[at]), block.attn, block.ln_1(x)
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        heads = []
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            update = linear(linear(dropout(normed, part.dropout, part.training), part.a[name]), part.b[name])
            projected = linear(normed, weight, bias) + part.scale * update
            heads.append(projected.view(*x.shape[:2], attention.num_heads, -1).transpose(1, 2))
        q, k, v = heads
        attended = scaled_dot_product_attention(q, k, v, None if mask is None else mask.to(q.dtype))
        x = x + attention.out_proj(attended.transpose(1, 2).flatten(2))
        after: Tensor = x + block.mlp(block.ln_2(x))
        return after


class PlainTwoStage(PlainAdapted):
    """First stage of 2SFS."""

    method: TwoStage

    def block(self, parts: nn.ModuleList, block: Any, x: Tensor, mask: Tensor | None, at: int) -> Tensor:
        part = cast(Norms, parts[at])
        first, second = (
            partial(layer_norm, normalized_shape=x.shape[-1:], weight=part.weight[name], bias=part.bias[name])
            for name in ("ln_1", "ln_2")
        )
        x = x + block.attention(first(x), attn_mask=mask)
        after: Tensor = x + block.mlp(second(x))
        return after


class PlainMma(PlainAdapted):
    method: Mma

    def block(self, parts: nn.ModuleList, block: Any, x: Tensor, mask: Tensor | None, at: int) -> Tensor:
        part, after = parts[at], plain_block(block, x, mask, at)
        if not isinstance(part, Adapter):
            return after
        normed, scale = block.ln_1(x), part.scale
        entering = scale * normed + ((1 - scale) * normed).detach()
        output = part.up(relu(part.shared(relu(part.down(entering)))))
        added: Tensor = output + ((scale - 1) * output).detach()
        return after + added


class PlainMmrl(Plain):
    method: Mmrl

    def __init__(self, method: Mmrl) -> None:
        super().__init__(method)
        self.texts = Texts(method.clip, method.texts)

    def tokens(self, maps: nn.ModuleList) -> dict[int, Tensor]:
        """Return block index (from 0) -> tokens (K, width)."""
        pairs = zip(self.method.layers, maps, strict=True)
        return {layer - 1: to_width(self.method.shared_tokens) for layer, to_width in pairs}

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(encode_text_with(self.clip, self.texts, self.tokens(self.method.to_text), classes), dim=-1)

    def both_scores(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores (B, C) of the class token and of the learned tokens, and the class token's features (B, D)."""
        own, outputs = encode_images_with(self.clip, images, self.tokens(self.method.to_vision))
        return self.scores(own, text), self.scores(outputs @ self.method.projection, text), own

    def logits(self, images: Tensor) -> Tensor:
        base, share = self.method.base, self.method.settings.class_weight
        own, others, _ = self.both_scores(images, self.text_features())
        return torch.where(
            torch.arange(own.shape[1], device=own.device) < base, share * own + (1 - share) * others, own
        )

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        settings = self.method.settings
        with torch.no_grad():
            frozen_image = encode_images(self.clip, batch.images)
        own, others, features = self.both_scores(batch.images, text)
        distance = 2 - cosine_similarity(features, frozen_image).mean()
        distance = distance - cosine_similarity(text, self.method.frozen_texts()[: len(text)]).mean()
        return (
            settings.class_weight * cross_entropy(own, batch.labels)
            + (1 - settings.class_weight) * cross_entropy(others, batch.labels)
            + settings.regularisation_weight * distance
        )


class PlainTcp(PlainPrompted):
    method: Tcp

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        first, _, second = self.method.meta_net
        hidden = first(self.method.frozen_texts()[classes])
        own = second(hidden * torch.sigmoid(1.702 * hidden)).view(len(hidden), -1, self.clip.text.width)

        def run(block: Any, x: Tensor, mask: Tensor | None, at: int) -> Tensor:
            if at + 1 == self.method.block:
                x = torch.cat([x[:, :1], own.to(x.dtype), x[:, 1 + own.shape[1] :]], dim=1)
            return plain_block(block, x, mask, at)

        return normalize(encode_text(self.clip, self.texts, self.text_prompts(), classes, run), dim=-1)

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        likeness = cosine_similarity(text, self.method.frozen_texts()[: len(text)], dim=1, eps=1e-7)
        weight = cast(TcpSettings, self.method.settings).knowledge_weight
        return super().loss_with(text, batch) + weight * (1 - likeness.mean())


class PlainPromptKd(Plain):
    method: PromptKd

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return self.method.text_features(classes)

    def image_features(self, images: Tensor) -> Tensor:
        return self.projected(images, training=False)

    def projected(self, images: Tensor, training: bool) -> Tensor:
        """Return projected features (B, D_t), normalised with batch (training) or running statistics."""
        ours = self.method
        hidden = ours.narrow(encode_images(self.clip, images, list(ours.vision_prompts)))
        running = ours.running_mean.detach().clone(), ours.running_var.detach().clone()
        hidden = batch_norm(hidden, *running, ours.norm_weight, ours.norm_bias, training)
        return linear(relu(hidden), ours.last.weight, ours.last.bias)

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        settings, teacher = self.method.settings, batch.teacher
        assert teacher is not None
        temperature = settings.temperature
        scores = self.scores(self.projected(batch.images, training=True), text)
        student, target = log_softmax(scores / temperature, dim=1), log_softmax(teacher.log() / temperature, dim=1)
        divergence = kl_div(student, target, reduction="sum", log_target=True)
        return settings.distillation_weight * temperature**2 * divergence / scores.numel()


ALL: dict[str, type[Any]] = {
    **PLAIN,
    "probe": PlainProbe,
    "tip": PlainTip,
    "classmeans": PlainClassMeans,
    "cliplora": PlainClipLora,
    "twostage": PlainTwoStage,
    "mma": PlainMma,
    "mmrl": PlainMmrl,
    "tcp": PlainTcp,
    "promptkd": PlainPromptKd,
}
"""Method in `METHODS` -> plain formulation."""
