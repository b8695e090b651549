"""MMRL: learned tokens from a space shared by both towers, inserted into the later blocks."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from syncclip.clip.inserted import Inserted, check_towers
from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.core.text import readable_name
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.prompts import INITIAL_STD
from syncclip.methods.settings import MmrlSettings
from syncclip.methods.syncclip import domain_terms

FIRST_LAYER = 6  # published setting for towers with 12 blocks


class Mmrl(Method):
    """Multi-modal representation learning (arXiv 2503.08497).

    One linear map per block projects K learned tokens to the tower's width. The projected tokens are inserted after the
    first token of each later block and replace the tokens inserted in the previous block. Let v be the image feature, r
    the projected mean of the tokens' outputs and t the text features, all of unit length. Let v0 and t0 be the features
    of the frozen CLIP model, and s its logit scale. The loss is

        a CE(s v t) + (1 - a) CE(s r t) + l (1 - mean cos(v, v0)) + l (1 - mean cos(t, t0))

    At test time, base classes are scored by a s v t + (1 - a) s r t, and novel classes by s v t alone, since r is
    fitted to the base classes. The authors evaluate each split separately; here, `logits` scores each class with its
    split's formula. Classes other than the training classes are scored by s v t.

    If `domain_tokens` is k > 0, the first k tokens are specific to real images, and the vision tower replaces them with
    k other tokens for synthetic images. The `SyncClip` losses replace the cross entropy of v. Test images are treated
    as real.
    """

    Settings = MmrlSettings
    settings: MmrlSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: MmrlSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        text, vision = clip.text, clip.vision
        check_towers(text, vision, clip.backbone.name)
        self.layers = checked_layers(settings.layers, min(text.layers, vision.layers))
        self.class_weight = settings.class_weight
        self.weights = {
            "classification": settings.class_weight,
            "real": settings.class_weight,
            "synthetic": settings.class_weight * settings.synthetic_weight,
            "alignment": settings.alignment_weight,
            "representation": 1 - settings.class_weight,
            "image": settings.regularisation_weight,
            "text": settings.regularisation_weight,
        }
        self.texts = clip.texts(fill(template, [*map(readable_name, classnames)]))
        self.frozen_texts = FrozenTexts(clip, classnames, [template])
        self.shared_tokens = nn.Parameter(INITIAL_STD * torch.randn(settings.tokens, settings.dim))
        maps = [nn.Linear(settings.dim, tower.width) for tower in (vision, text)]  # as published, shared initialisation
        self.to_vision, self.to_text = (nn.ModuleList(deepcopy(linear) for _ in self.layers) for linear in maps)
        self.projection = nn.Parameter(torch.randn(vision.width, text.dim) / vision.width**0.5)
        if settings.domain_tokens:
            self.synthetic_tokens = nn.Parameter(INITIAL_STD * torch.randn(settings.domain_tokens, settings.dim))

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        inserted = self._inserted(self.shared_tokens, self.to_text)
        return normalize(self.clip.encode_text(self.texts[classes], inserted=inserted), dim=-1)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """Return the unnormalised class-token features (B, D)."""
        return self.both_features(images, domains)[:, 0]

    def both_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """Return the unnormalised features (B, 2, D) of the class token and the learned tokens."""
        tokens: Tensor = self.shared_tokens
        if domains is not None and (specific := self.settings.domain_tokens):
            synthetic = torch.cat([self.synthetic_tokens, tokens[specific:]])
            tokens = torch.where(domains.bool()[:, None, None], synthetic, tokens)
        encoded = self.clip.encode_images(images, inserted=self._inserted(tokens, self.to_vision))
        width = len(self.projection)
        return torch.stack([encoded[:, :-width], encoded[:, -width:] @ self.projection], dim=1)

    def logits_given(self, text: Tensor, images: Tensor, domains: Tensor | None = None) -> Tensor:
        features = self.both_features(images, domains).unbind(dim=1)
        main, extra = (self.scores(feature, text) for feature in features)
        fused = self.class_weight * main + (1 - self.class_weight) * extra
        return torch.cat([fused[:, : self.known], main[:, self.known :]], dim=1)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        candidates = self.candidates(batch)
        text, frozen_text = self.candidate_features(candidates), self.frozen_texts()[:candidates]
        main, extra = self.work.images(self.both_features, batch.images, batch.domains).unbind(dim=1)
        with torch.no_grad():
            frozen_image = self.clip.encode_images(batch.images)
        if self.settings.domain_tokens:
            terms = domain_terms(self, batch, main, text, self.settings.negatives)
        else:
            terms = {"classification": cross_entropy(self.scores(main, text), batch.labels)}
        return terms | {
            "representation": cross_entropy(self.scores(extra, text), batch.labels),
            "image": 1 - cosine_similarity(main, frozen_image).mean(),
            "text": 1 - cosine_similarity(text, frozen_text).mean(),
        }

    def _inserted(self, tokens: Tensor, maps: nn.ModuleList) -> Inserted:
        """Project the tokens (*, K, dim) to a tower's width for each block."""
        return Inserted({layer - 1: to_width(tokens) for layer, to_width in zip(self.layers, maps, strict=True)})


def checked_layers(layers: Sequence[int] | None, last: int) -> list[int]:
    """Return the 1-based indices of the blocks with inserted tokens; the shallower tower has `last` blocks.

    Raises:
        UserError: the shallower tower lacks one of these blocks.
    """
    if layers is None:
        return list(range(min(FIRST_LAYER, last), last + 1))
    if max(layers) > last:
        raise UserError(
            f"methods.mmrl.layers contains block {max(layers)}, but a tower has {last} blocks; use at most {last}"
        )
    return list(layers)
