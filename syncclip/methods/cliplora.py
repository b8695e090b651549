"""CLIP-LoRA: low-rank updates of the attention in both towers, optionally with domain-specific updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from syncclip.clip.parts import BlockPart, Matrix
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.text_tower import TextTower
from syncclip.clip.vision_tower import VisionTower
from syncclip.core.settings import UserError
from syncclip.methods.adapted import Adapted
from syncclip.methods.base import TrainingBatch
from syncclip.methods.settings import ClipLoraSettings
from syncclip.methods.syncclip import domain_terms


class LowRank(BlockPart):
    """Block with low-rank updates: the selected matrices compute W x + b + alpha / sqrt(r) B A dropout(x).

    The formula is equation 4 of arXiv 2405.18541. Each matrix has its own dropout mask. B is initialised to zero, so
    training starts from the frozen tower.
    """

    def __init__(self, width: int, rank: int, settings: ClipLoraSettings) -> None:
        super().__init__()
        self.scale, self.dropout = settings.alpha / math.sqrt(rank), settings.dropout
        self.a = nn.ParameterDict({name: nn.Parameter(torch.empty(rank, width)) for name in settings.projections})
        self.b = nn.ParameterDict({name: nn.Parameter(torch.zeros(width, rank)) for name in settings.projections})
        for matrix in self.a.values():
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def dropped(self, name: str, x: Tensor) -> Tensor:  # noqa: ARG002
        """Apply dropout to the input x (*, T, in) of a low-rank update."""
        return dropout(x, self.dropout, self.training)

    def update(self, name: str, x: Tensor) -> Tensor:
        """Return the low-rank update (*, T, out) that is added to the frozen output for the input x (*, T, in)."""
        if not (self.training and self.dropout and torch.is_grad_enabled()):
            return self._update(name, x)
        # Recompute dropout in the backward pass: stored for three matrices per block, it would dominate memory.
        return cast(Tensor, checkpoint(self._update, name, x, use_reentrant=False))

    def _update(self, name: str, x: Tensor) -> Tensor:
        update: Tensor = self.dropped(name, x) @ self.a[name].T @ self.b[name].T
        return self.scale * update

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        frozen = super().linear(name, x, weight, bias)
        return frozen + self.update(name, x) if name in self.a else frozen


class DomainLowRank(BlockPart):
    """Block with a shared and a domain-specific low-rank update; without `domains`, all images are treated as real."""

    def __init__(self, shared: LowRank, real: LowRank, synthetic: LowRank, domains: Tensor | None) -> None:
        super().__init__()
        self.shared, self.real, self.synthetic, self.domains = shared, real, synthetic, domains

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shared = self.shared.linear(name, x, weight, bias)
        if name not in self.shared.a:
            return shared
        specific = self.real.update(name, x)
        if self.domains is not None:
            specific = torch.where(self.domains.bool()[:, None, None], self.synthetic.update(name, x), specific)
        return shared + specific


class ClipLora(Adapted):
    """CLIP-LoRA (arXiv 2405.18541), optionally with domain-specific updates and the SYNC-CLIP losses.

    By default, real and synthetic images are treated alike. With `domain_rank` > 0, the vision tower also has
    domain-specific low-rank updates, and training uses the `SyncClip` losses. Test images are treated as real.

    Source: the paper and its published code, which divides alpha by the square root of the rank.
    """

    Settings = ClipLoraSettings
    settings: ClipLoraSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: ClipLoraSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.weights = {"synthetic": settings.synthetic_weight, "alignment": settings.alignment_weight}
        text = self._updates(clip.text, settings.rank) if settings.towers != "vision" else []
        vision = self._updates(clip.vision, settings.rank) if settings.towers != "text" else []
        self.install(text, vision)
        parts = [self._updates(clip.vision, settings.domain_rank) if settings.domain_rank else [] for _ in range(2)]
        self.real_parts, self.synthetic_parts = map(nn.ModuleList, parts)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        if not self.settings.domain_rank:
            return super().image_features(images)
        blocks = zip(self.vision_parts, self.real_parts, self.synthetic_parts, strict=True)
        parts = [DomainLowRank(*cast(tuple[LowRank, LowRank, LowRank], block), domains) for block in blocks]
        return self.clip.encode_images(images, parts=parts)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        if not self.settings.domain_rank:
            return super().terms(batch)
        features = self.loss_features(batch.images, batch.domains)
        text = self.candidate_features(self.candidates(batch))
        return domain_terms(self, batch, features, text, self.settings.negatives)

    def _updates(self, tower: TextTower | VisionTower, rank: int) -> list[LowRank]:
        if rank > tower.width:
            raise UserError(
                f"methods.cliplora: rank {rank} exceeds the tower's width of {tower.width}; use a rank of at most "
                f"{tower.width}"
            )
        return [LowRank(tower.width, rank, self.settings) for _ in range(tower.layers)]
