"""The learned context of CoOp and its followers: how many vectors stand around a class name, and where they start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import Position, PromptTokens
from syncclip.core.text import spoken
from syncclip.methods.base import MethodSettings

Phrase = Annotated[str, StringConstraints(strip_whitespace=True)]

RANDOM_TOKENS = 16  # of the published settings, for a context that starts at random


class ContextSettings(MethodSettings):
    """Settings of a learned context, which starts as the words of a phrase, one vector a word, or at random."""

    learning_rate: float = Field(0.002, gt=0)
    phrase: Phrase = ""  # what the vectors start as; empty: random
    text_tokens: int | None = Field(None, ge=1)
    """Learned vectors; None: one for each word of the phrase; without a phrase 16, or as many as a short context has
    room for."""

    @model_validator(mode="after")
    def _one_vector_a_word(self) -> ContextSettings:
        words = len(self.phrase.split())
        if words and self.text_tokens not in (None, words):
            raise ValueError(
                f"text_tokens is {self.text_tokens}, but the phrase '{self.phrase}' has {words} word(s), each of which "
                f"starts one vector; set text_tokens=null, or a phrase of {self.text_tokens} words, or an empty one"
            )
        return self


def context_places(
    clip: PromptedClip, classnames: Sequence[str], settings: ContextSettings, position: Position = "end"
) -> PromptTokens:
    """The classes' sentences, with places for the context.

    Raises:
        TextTooLongError: a sentence with these places does not fit this CLIP.
    """
    n = settings.text_tokens
    if n is None and not settings.phrase:
        room = clip.context - int(clip.lengths([f"{spoken(name)}." for name in classnames]).max())
        n = max(1, min(RANDOM_TOKENS, room))
    return clip.text_context(classnames, settings.phrase, None if settings.phrase else n, position)
