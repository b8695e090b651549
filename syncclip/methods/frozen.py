"""Frozen text features of hand-written prompts, used as classifiers or regularisation targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import TextTooLongError
from syncclip.core.settings import Template
from syncclip.core.text import readable_name


class FrozenTexts(nn.Module):
    """Features of hand-written prompts, encoded on first use and cached on the CLIP model for all methods.

    The features are a non-persistent buffer: they move to the method's device, but are not in the state dict. Tokens
    and embeddings are discarded, since they would take up gigabytes of memory for 60 templates and 1,000 classes.

    Args:
        templates: prompt templates for every class.
        leave_out_long: omit templates that exceed the CLIP model's context length.
        directions: also normalise features before averaging, as in CLIP's prompt ensemble.
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
        """Return each class's detached mean feature (C, D), of unit length unless `raw` is set.

        Raises:
            TextTooLongError: a prompt (or, with `leave_out_long`, every template) exceeds the context length.
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
                            f"none of {len(self.templates)} templates fits the CLIP model's context length of "
                            f"{self.clip.context} tokens; use shorter templates or class names"
                        )
                    mean = torch.stack(features).mean(dim=0)
                    cache[key] = mean if self.raw else normalize(mean, dim=-1)
            self.features = cache[key]
        return self.features

    def _encode(self, template: str) -> Tensor | None:
        """Return the features (C, D) of a template's prompts, or None if the template is omitted."""
        try:
            texts = self.clip.texts(fill(template, self.names))
        except TextTooLongError:
            if self.leave_out_long:
                return None
            raise
        features = self.clip.encode_text(texts)
        return normalize(features, dim=-1) if self.directions else features


def feature_length(clip: PromptedClip) -> int:
    """Return the dimension D of text and image features."""
    projection = clip.model.visual
    return int(projection.output_dim) if hasattr(projection, "output_dim") else clip.text.dim
