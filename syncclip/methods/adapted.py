"""What methods share that learn inside the towers' blocks: one sentence a class, and a part for each block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.parts import BlockPart
from syncclip.clip.prompt_text import fill, spoken
from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method
from syncclip.methods.settings import MethodSettings


class Adapted(Method):
    """Two towers with learned parts inside their blocks, and frozen texts.

    Attributes:
        text_parts, vision_parts: one for each block, in order; empty where a tower stays as it is.
    """

    text_parts: nn.ModuleList
    vision_parts: nn.ModuleList

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: MethodSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.texts = clip.texts(fill(template, [*map(spoken, classnames)]))

    def install(self, text: Iterable[BlockPart], vision: Iterable[BlockPart]) -> None:
        """Put the parts in place, one for each block of a tower or none.

        Raises:
            UserError: a tower takes no parts.
        """
        self.text_parts, self.vision_parts = nn.ModuleList(text), nn.ModuleList(vision)
        if len(self.vision_parts):
            self.clip.vision.blocks(0, self.vision_parts)  # refuses now what it would refuse at the first step

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.clip.encode_text(self.texts[classes], parts=self.text_parts), dim=-1)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.clip.encode_images(images, parts=self.vision_parts)
