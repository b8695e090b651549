"""CoCoOp: a learned context that each picture shifts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.checkpoint import checkpoint

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.context import ContextSettings, context_places
from syncclip.methods.prompts import deep_prompts


class CoCoOp(Method):
    """Conditional context optimisation (arXiv 2203.05557).

    A small net turns a picture's feature, of length 1, into one vector, which is added to each learned vector of the
    context: [V1 + m(x)]...[Vn + m(x)][name] (section 3.2 of the paper). So every picture has class features of its own,
    and a step encodes a sentence for each pair of a picture and a candidate. The loss is the cross entropy.

    Source: the paper and its published code.
    """

    class Settings(ContextSettings):
        phrase: str = "a photo of a"
        prompts_at_once: int | None = Field(256, ge=1)
        """Sentences in the text tower at a time. More of them go through it in turn, and once more for the gradient:
        memory is bounded, whatever the batch and the number of classes, and numbers are the same. None: all at once."""

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: Settings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.at_once = settings.prompts_at_once
        self.tokens = context_places(clip, classnames, settings)
        self.text_prompts = deep_prompts(1, self.tokens.slots.shape[1], clip.text_width, self.tokens.initial)
        hidden = max(clip.dim // 16, 1)
        self.meta_net = nn.Sequential(
            OrderedDict(linear1=nn.Linear(clip.dim, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, clip.text_width))
        )

    def text_features(self) -> Tensor:
        """(C, D) features of all classes, of length 1, before a picture shifts them."""
        return normalize(self.clip.encode_text(self.tokens, list(self.text_prompts)), dim=-1)

    def contexts(self, images: Tensor) -> Tensor:
        """(B, n, width) vectors of each picture's context, given image features (B, D), not normalised."""
        shifts: Tensor = self.meta_net(normalize(images, dim=-1))
        return self.text_prompts[0] + shifts[:, None]

    def conditional_features(self, images: Tensor, candidates: int) -> Tensor:
        """(B, candidates, D) text features of the first classes, of length 1, as each picture has them.

        Args:
            images: (B, D) image features, not normalised.
        """
        return normalize(self._encode(self.contexts(images), candidates), dim=-1)

    def logits(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        features = self.image_features(images, domains)
        return self.scores(features, self.conditional_features(features, len(self.classnames)))

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        features = self.image_features(batch.images)
        text = self.conditional_features(features, self.candidates(batch))
        return {"classification": cross_entropy(self.scores(features, text), batch.labels)}

    def _encode(self, contexts: Tensor, candidates: int) -> Tensor:
        """(B, candidates, D) raw text features of contexts (B, n, width)."""
        if self.at_once is None or len(contexts) * candidates <= self.at_once:
            return self._encode_some(contexts, slice(candidates))
        firsts = range(0, candidates, self.at_once)
        classes = [slice(first, min(first + self.at_once, candidates)) for first in firsts]
        pictures = contexts.split(max(self.at_once // candidates, 1))
        return torch.cat([torch.cat([self._encode_again(some, rows) for rows in classes], dim=1) for some in pictures])

    def _encode_again(self, contexts: Tensor, classes: slice) -> Tensor:
        """What `_encode_some` gives; only the contexts are kept for the gradient."""
        features: Tensor = checkpoint(
            self._encode_some, contexts, classes, use_reentrant=False, preserve_rng_state=False
        )
        return features

    def _encode_some(self, contexts: Tensor, classes: slice) -> Tensor:
        return self.clip.encode_text(self.tokens[classes], [contexts[:, None]])
