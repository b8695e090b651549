"""The words of all classes that stand around the learned vectors, as published code saves them beside these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.context import ContextSettings, context_places


class FixedWords(NamedTuple):
    """Token embeddings of all classes' sentences, as far as they are not learned.

    Published code drops them when it loads, for then the current classes decide. Here they tell whether these are the
    classes, phrase and weights that the prompts were learned with.
    """

    before: Tensor  # (C, 1, width), the start token
    behind: Tensor  # (C, context - 1 - n, width), the rest of the phrase, the name, full stop, end and padding

    @classmethod
    def of(cls, clip: PromptedClip, classnames: Sequence[str], settings: Any) -> FixedWords:
        """Those of a method with these settings; the name is the last word, wherever it is put among the vectors.

        Raises:
            UserError: a sentence does not fit the context.
        """
        if isinstance(settings, ContextSettings):
            tokens = context_places(clip, classnames, settings)
        else:
            tokens = clip.text_context(classnames, settings.phrase, settings.text_tokens)
        n, length = tokens.slots.shape[1], tokens.embeddings.shape[1]
        padding = clip.text.token_embedding.weight[0].detach()  # CLIP's tokenizer pads with token 0
        whole = padding.expand(len(classnames), clip.context, -1).cpu().clone()
        whole[:, :length] = tokens.embeddings.cpu()
        return cls(whole[:, :1], whole[:, 1 + n :])

    def differing(self, other: FixedWords) -> list[int]:
        """The classes whose words behind the learned vectors differ, up to the rounding of half precision."""
        length = min(self.behind.shape[1], other.behind.shape[1])
        same = alike(self.behind[:, :length], other.behind[:, :length]).all(dim=-1)
        return [int(label) for label in (~same).nonzero().flatten()]


def alike(ours: Tensor, theirs: Tensor) -> Tensor:
    """Which vectors (…, width) are equal up to the rounding of half precision, or of a mean taken in it."""
    ours, theirs = ours.float(), theirs.float()
    near: Tensor = (ours - theirs).norm(dim=-1) <= 0.01 * ours.norm(dim=-1)
    return near
