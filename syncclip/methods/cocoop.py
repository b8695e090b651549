"""CoCoOp: a learned context, shifted by an image-conditional vector."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.checkpoint import checkpoint

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.prompts import context_tokens, deep_prompts
from syncclip.methods.settings import CoCoOpSettings


class CoCoOp(Method):
    """Conditional context optimisation (arXiv 2203.05557).

    A small network m maps an image's unit-length feature x to a vector that is added to each learned context vector:
    [V1 + m(x)]...[Vn + m(x)][name] (section 3.2 of the paper). Text features depend on the image, so a step encodes one
    prompt for each pair of image and candidate class. The loss is cross entropy.

    Source: the paper and its published code.
    """

    Settings = CoCoOpSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: CoCoOpSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.at_once = settings.prompts_at_once
        self.tokens = context_tokens(clip, classnames, settings)
        self.text_prompts = deep_prompts(1, self.tokens.slots.shape[1], clip.text.width, self.tokens.initial)
        hidden = max(clip.text.dim // 16, 1)
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(clip.text.dim, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, clip.text.width)
            )
        )

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        """Return the prompts' unit-length features (C, D) without the image-conditional shift."""
        return normalize(self.clip.encode_text(self.tokens[classes], list(self.text_prompts)), dim=-1)

    def contexts(self, images: Tensor) -> Tensor:
        """Return each image's context vectors (B, n, width), given raw image features (B, D)."""
        shifts = self.meta_net(normalize(images, dim=-1))
        contexts: Tensor = self.text_prompts[0] + shifts[:, None]
        return contexts

    def conditional_features(self, contexts: Tensor, classes: slice) -> Tensor:
        """Return the unit-length text features (B, C, D) for a slice of the classes, with each image's context."""
        return normalize(self.clip.encode_text(self.tokens[classes], [contexts[:, None]]), dim=-1)

    def conditional_scores(self, images: Tensor, candidates: int) -> Tensor:
        """Return the scores (B, candidates) for the first `candidates` classes, given raw image features (B, D)."""
        contexts = self.contexts(images)
        if self.at_once is None or len(images) * candidates <= self.at_once:
            return self._scores(images, contexts, slice(candidates))
        rows = max(self.at_once // candidates, 1)
        slices = [slice(i, min(i + self.at_once, candidates)) for i in range(0, candidates, self.at_once)]
        recomputed = partial(checkpoint, self._scores, use_reentrant=False, preserve_rng_state=False)
        scores = [
            torch.cat([recomputed(*chunk, classes) for classes in slices], dim=1)
            for chunk in zip(torch.split(images, rows), torch.split(contexts, rows), strict=True)
        ]
        return torch.cat(scores)

    def logits(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        return self.conditional_scores(self.image_features(images, domains), len(self.classnames))

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        scores = self.conditional_scores(self.loss_features(batch.images), self.candidates(batch))
        return {"classification": cross_entropy(scores, batch.labels)}

    def _scores(self, images: Tensor, contexts: Tensor, classes: slice) -> Tensor:
        return self.scores(images, self.conditional_features(contexts, classes))
