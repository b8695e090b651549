"""Features of hand-written sentences from the frozen text tower: a method's texts, or the teacher of learned ones."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompt_text import fill, spoken
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import TextTooLongError
from syncclip.core.settings import Template

_ENCODED: WeakKeyDictionary[PromptedClip, dict[tuple[str | int, ...], Tensor]] = WeakKeyDictionary()
"""CLIP -> the features of sentences that it encoded, by all that decides their bits: names, templates, device, dtype,
threads."""


class FrozenTexts(nn.Module):
    """Features of hand-written sentences, encoded on first use and then shared by all methods on one CLIP.

    A module without parameters, so that the features move with the method that owns it; absent from its state dict.
    Neither tokens nor embeddings are kept: for sixty templates of a thousand classes they would take gigabytes.

    Args:
        templates: sentences of every class.
        leave_out_long: omit templates that are too long for the context of this CLIP.
        directions: normalise features before their mean too, so that every sentence counts the same, as in CLIP's own
            ensemble.
        raw: leave the mean as it is.
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
        self.names, self.templates, self.leave_out_long = [*map(spoken, classnames)], list(templates), leave_out_long
        self.directions, self.raw = directions, raw
        self.register_buffer("features", None, persistent=False)

    def forward(self) -> Tensor:
        """(C, D) without gradient: the mean of a class's features, at length 1 unless it is to stay `raw`.

        The features are not normalised, unless `directions` asks for it.

        Raises:
            TextTooLongError: a sentence does not fit the context; or, where those are omitted, none fits.
        """
        if self.features is None:
            encoded = _ENCODED.setdefault(self.clip, {})
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
            if key not in encoded:
                # The first caller may be in inference mode, and a tensor created there can't be used in training.
                with torch.inference_mode(False), torch.no_grad():
                    each = [found for template in self.templates if (found := self._encode(template)) is not None]
                    if not each:
                        raise TextTooLongError(
                            f"none of {len(self.templates)} templates fits the {self.clip.context} tokens of this "
                            "CLIP's context; use shorter templates or shorter class names"
                        )
                    mean = torch.stack(each).mean(dim=0)
                    encoded[key] = mean if self.raw else normalize(mean, dim=-1)
            self.features = encoded[key]
        return self.features

    def _encode(self, template: str) -> Tensor | None:
        """(C, D) features of one sentence a class; None for a template that is omitted."""
        try:
            texts = self.clip.texts(fill(template, self.names))
        except TextTooLongError:
            if self.leave_out_long:
                return None
            raise
        features = self.clip.encode_text(texts)
        return normalize(features, dim=-1) if self.directions else features


def feature_length(clip: PromptedClip) -> int:
    """D, of text and image features alike."""
    projection = clip.model.visual
    return int(projection.output_dim) if hasattr(projection, "output_dim") else clip.text.dim
