"""MaPLe: text prompts, and visual prompts projected from them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method
from syncclip.methods.prompts import checked_depth, deep_prompts
from syncclip.methods.settings import MapleSettings


class Maple(Method):
    """Multi-modal prompt learning (arXiv 2210.03117): visual prompts are learned projections of the text prompts.

    For a block with text prompt P, the visual prompt is F(P), where F is the block's affine map (the coupling function
    in section 3.2.3).

    Source: the paper and its published code, in which all maps except the first have the same initialisation.
    """

    Settings = MapleSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: MapleSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        depth = checked_depth("depth", settings.depth, min(clip.text.layers, clip.vision.layers))
        self.tokens = clip.text_context(classnames, settings.initial_words, settings.text_tokens)
        self.text_prompts = deep_prompts(depth, settings.text_tokens, clip.text.width, self.tokens.initial)
        first, deeper = (nn.Linear(clip.text.width, clip.vision.width) for _ in range(2))
        self.projections = nn.ModuleList([first, *(deepcopy(deeper) for _ in range(depth - 1))])

    def vision_prompts(self) -> list[Tensor]:
        """Return each block's projected text prompt (n, vision width)."""
        return [project(prompt) for project, prompt in zip(self.projections, self.text_prompts, strict=True)]

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.clip.encode_text(self.tokens[classes], list(self.text_prompts)), dim=-1)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.clip.encode_images(images, self.vision_prompts())
