"""KgCoOp: CoOp with text features regularised towards hand-written prompts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.coop import CoOp
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.settings import KgCoOpSettings


class KgCoOp(CoOp):
    """Knowledge-guided context optimisation (arXiv 2303.13283).

    The loss is cross entropy plus the weighted mean distance between learned and hand-written prompt features of the
    candidate classes (L_kg in section 3.2).

    Source: the paper and its published code. For unit-length features, the code's distance, 1 - cosine, is half the
    paper's squared Euclidean distance.
    """

    Settings = KgCoOpSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: KgCoOpSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.weights = {"knowledge": settings.knowledge_weight}
        self.frozen_texts = FrozenTexts(clip, classnames, [settings.template or template])

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return knowledge_terms(self, batch, self.frozen_texts())


def knowledge_terms(method: Method, batch: TrainingBatch, frozen: Tensor) -> dict[str, Tensor]:
    """Return the KgCoOp loss terms: cross entropy and distance from the hand-written prompt features (C, D)."""
    candidates = method.candidates(batch)
    text = method.candidate_features(candidates)
    return {
        "classification": cross_entropy(method.scores(method.loss_features(batch.images), text), batch.labels),
        "knowledge": 1 - cosine_similarity(text, frozen[:candidates], dim=-1).mean(),
    }
