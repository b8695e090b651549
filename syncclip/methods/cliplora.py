"""CLIP-LoRA: low-rank updates of the attention in both towers, for all images or beside them for each domain."""

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
from syncclip.methods.syncclip import domain_terms
from syncclip.methods.weight_settings import ClipLoraSettings, Projection


class LowRank(BlockPart):
    """W x + b + alpha / sqrt(r) B A dropout(x) for some of a block's matrices (equation 4 of arXiv 2405.18541).

    Each matrix draws a dropout of its own. B starts as zero, so that a training starts from the frozen tower.
    """

    def __init__(self, width: int, rank: int, settings: ClipLoraSettings) -> None:
        super().__init__()
        self.scale, self.chance = settings.alpha / math.sqrt(rank), settings.dropout
        self.a = nn.ParameterDict({name: nn.Parameter(torch.empty(rank, width)) for name in settings.projections})
        self.b = nn.ParameterDict({name: nn.Parameter(torch.zeros(width, rank)) for name in settings.projections})
        for matrix in self.a.values():
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def dropped(self, name: Projection, x: Tensor) -> Tensor:  # noqa: ARG002
        """(*, T, in) what of x enters a matrix's update."""
        return dropout(x, self.chance, self.training)

    def update(self, name: Projection, x: Tensor) -> Tensor:
        """(*, T, out) that is added to what the frozen matrix makes of x (*, T, in)."""
        if not (self.training and self.chance and torch.is_grad_enabled()):
            return self._update(name, x)
        # What was dropped is drawn again for the gradient: kept for three matrices a block, it would be most of a step.
        return cast(Tensor, checkpoint(self._update, name, x, use_reentrant=False))

    def _update(self, name: Projection, x: Tensor) -> Tensor:
        found: Tensor = self.dropped(name, x) @ self.a[name].T @ self.b[name].T
        return self.scale * found

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        frozen = super().linear(name, x, weight, bias)
        return frozen + self.update(cast(Projection, name), x) if name in self.a else frozen


class DomainLowRank(BlockPart):
    """A block's shared update and the one of each image's domain; without domains all are real."""

    def __init__(self, shared: LowRank, real: LowRank, synthetic: LowRank, domains: Tensor | None) -> None:
        super().__init__()
        self.shared, self.real, self.synthetic, self.domains = shared, real, synthetic, domains

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        common = self.shared.linear(name, x, weight, bias)
        if name not in self.shared.a:
            return common
        matrix = cast(Projection, name)
        own = self.real.update(matrix, x)
        if self.domains is not None:
            own = torch.where(self.domains.bool()[:, None, None], self.synthetic.update(matrix, x), own)
        return common + own


class ClipLora(Adapted):
    """CLIP-LoRA (arXiv 2405.18541), on real and synthetic images alike; or SYNC-CLIP's idea with it.

    With a `domain_rank`, real and synthetic images have low-rank updates of their own in the vision tower beside the
    one that they share, and the losses are those of `SyncClip`. Test images are real.

    Source: the paper and its published code, which divides alpha by the root of the rank.
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
        own = [self._updates(clip.vision, settings.domain_rank) if settings.domain_rank else [] for _ in range(2)]
        self.real_parts, self.synthetic_parts = map(nn.ModuleList, own)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        if not self.settings.domain_rank:
            return super().image_features(images)
        each = zip(self.vision_parts, self.real_parts, self.synthetic_parts, strict=True)
        parts = [DomainLowRank(*cast(tuple[LowRank, LowRank, LowRank], three), domains) for three in each]
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
                f"methods.cliplora: an update of rank {rank} is not of low rank in a tower of width {tower.width}; use "
                f"a rank of at most {tower.width}"
            )
        return [LowRank(tower.width, rank, self.settings) for _ in range(tower.layers)]
