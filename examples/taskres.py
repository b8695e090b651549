"""TaskRes, a custom method in one file outside the package.

syncclip synth examples/taskres.yaml synthesis.images_per_class=4
syncclip train examples/taskres.yaml
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import Method, MethodSettings
from syncclip.methods.frozen import FrozenTexts


class TaskRes(Method):
    """Task residuals (arXiv 2211.10277): a learned vector is added to each class's frozen text feature.

    With unit text features t and residuals x, the text features are t + scale * x (equation 4 of the paper). The vision
    tower is frozen. Logits, loss, evaluation and checkpoints are inherited from `Method`.
    """

    class Settings(MethodSettings):
        learning_rate: float = Field(0.002, gt=0)
        scale: float = Field(0.5, gt=0)

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: Settings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.scale = settings.scale
        self.texts = FrozenTexts(clip, classnames, [template])
        self.residuals = nn.Parameter(torch.zeros_like(self.texts()))

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize((self.texts() + self.scale * self.residuals)[classes], dim=-1)
