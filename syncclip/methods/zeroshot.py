"""Zero-shot CLIP with hand-written prompts and no learned parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.core.text import readable_name
from syncclip.methods.base import Method
from syncclip.methods.settings import ZeroShotSettings


class ZeroShot(Method):
    """Zero-shot CLIP (arXiv 2103.00020), which assigns an image to the class with the nearest prompt."""

    Settings = ZeroShotSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: ZeroShotSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        names = [readable_name(name) for name in classnames]
        templates = settings.templates or (template,)
        self.sentences = nn.ModuleList(clip.texts(fill(each, names)) for each in templates)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        """Return the normalised mean (C, D) of each class's unit-length prompt features."""
        features = [self.clip.encode_text(cast(PromptTokens, texts)[classes]) for texts in self.sentences]
        return normalize(torch.stack([normalize(each, dim=-1) for each in features]).mean(dim=0), dim=-1)
