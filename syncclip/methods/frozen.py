"""Features of hand-written prompts from the frozen text tower, as classifiers or as targets of regularisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompt_text import fill, readable_name
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import TextTooLongError
from syncclip.core.settings import Template


class FrozenTexts(nn.Module):
    """Features of hand-written prompts, encoded on first use and cached on the CLIP for all its methods.

    A module without parameters, so that the features follow the method to its device; they are not in the state dict.
    Tokens and embeddings are discarded: for sixty templates and a thousand classes they would take gigabytes.

    Args:
        templates: prompt templates of every class.
        leave_out_long: omit templates that exceed the context length of this CLIP.
        directions: normalise features also before averaging, as in CLIP's own ensemble.
        raw: do not normalise the mean.
    """

    clip: PromptedClip
    features: Tensor | None

    def __init__(
        self,
        clip: PromptedClip,
        classnames: Sequence[str],
        templates: Sequence[Template],
        leave_out_long: bool = False,
        directions: bool = False,
        raw: bool = False,
    ) -> None:
        super().__init__()
        object.__setattr__(self, "clip", clip)  # bypasses nn.Module, which would register it
        self.names, self.templates = [*map(readable_name, classnames)], list(templates)
        self.leave_out_long, self.directions, self.raw = leave_out_long, directions, raw
        self.register_buffer("features", None, persistent=False)

    def forward(self) -> Tensor:
        """(C, D) mean of each class's features, without gradient, of unit length unless `raw`.

        Raises:
            TextTooLongError: a prompt exceeds the context length; with `leave_out_long`, all templates do.
        """
        if self.features is None:
            cache = self.clip.text_cache
            key: tuple[str | int, ...] = (
                *self.names,
                "",
                *self.templates,
                str(self.clip.device),
                str(self.clip.logit_scale.dtype),
                torch.get_num_threads(),
                self.directions,
                self.raw,
            )
            if key not in cache:
                # A tensor created in inference mode can't be used in training.
                with torch.inference_mode(False), torch.no_grad():
                    encoded = [self._encode(template) for template in self.templates]
                    features = [each for each in encoded if each is not None]
                    if not features:
                        raise TextTooLongError(
                            f"none of {len(self.templates)} templates fits the context of {self.clip.context} tokens "
                            "of this CLIP; use shorter templates or shorter class names"
                        )
                    mean = torch.stack(features).mean(dim=0)
                    cache[key] = mean if self.raw else normalize(mean, dim=-1)
            self.features = cache[key]
        return self.features

    def _encode(self, template: str) -> Tensor | None:
        """(C, D) features of a template's prompts; None if it is omitted."""
        try:
            texts = self.clip.texts(fill(template, self.names))
        except TextTooLongError:
            if self.leave_out_long:
                return None
            raise
        features = self.clip.encode_text(texts)
        return normalize(features, dim=-1) if self.directions else features


def feature_length(clip: PromptedClip) -> int:
    """The dimension D of text and image features."""
    projection = clip.model.visual
    return int(projection.output_dim) if hasattr(projection, "output_dim") else clip.text.dim
