"""Token embeddings of class names and prompts, with slots for learned vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from syncclip.clip.prompt_text import too_long
from syncclip.core.settings import Position, UserError
from syncclip.core.text import counted

WORD_TOKENS = 4
"""Maximum number of tokens to initialise from words; longer prompts are initialised randomly, as in MaPLe."""


class TextTooLongError(UserError):
    """Raised if a text exceeds the CLIP context length; otherwise, the tokenizer would silently truncate the text."""


class PromptTokens(nn.Module):
    """Embedded texts. This module has no parameters and moves to a device together with its method.

    Attributes:
        ids: (C, L) token ids.
        embeddings: (C, L, width) token embeddings without positions.
        read: (C,) positions of the pooled tokens, such as CLIP's end token.
        slots: (C, n) positions of the learned vectors.
        shared: length of the common prefix, including all slots, that a causal tower computes once; 0 for other towers.
        initial: (n, width) initial vectors from words, or None.
        lengths: number of tokens of each text, up to and including the pooled token.
    """

    ids: Tensor
    embeddings: Tensor
    read: Tensor
    slots: Tensor

    def __init__(
        self,
        ids: Tensor,
        embeddings: Tensor,
        read: Tensor,
        slots: Tensor,
        shared: int,
        initial: Tensor | None,
        lengths: list[int] | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"ids": ids, "embeddings": embeddings, "read": read, "slots": slots}.items():
            self.register_buffer(name, value, persistent=False)
        self.shared = shared
        self.initial = initial
        self.lengths: list[int] = (read + 1).tolist() if lengths is None else lengths

    def __getitem__(self, rows: slice) -> PromptTokens:
        """Return a slice of the texts; the padded length and the shared tokens do not change."""
        return self._some(rows, self.lengths[rows], self.ids.shape[1])

    def group(self, rows: list[int]) -> PromptTokens:
        """Return the selected texts, with padding trimmed to the longest text; the shared tokens do not change."""
        lengths = [self.lengths[row] for row in rows]
        return self._some(rows, lengths, max(lengths))

    def _some(self, rows: slice | list[int], lengths: list[int], longest: int) -> PromptTokens:
        texts = self.ids[rows, :longest], self.embeddings[rows, :longest], self.read[rows], self.slots[rows]
        return PromptTokens(*texts, self.shared, self.initial, lengths)


def frame(tokenizer: Callable[..., Tensor], context: int) -> tuple[int, int]:
    """Return a tokenizer's number of start tokens (1 in CLIP, 0 in SigLIP) and the id of its end token; for a tokenizer
    without an end token, return the id of its padding token."""
    empty, word = tokenizer(["", "a"], context_length=context)
    start = int((empty != word).int().argmax())
    return start, int(empty[start])


def tokenize(tokenizer: Callable[..., Tensor], texts: Sequence[str], context: int, end: int) -> tuple[Tensor, Tensor]:
    """Return token ids (C, context) and the positions (C,) of the end tokens.

    Raises:
        TextTooLongError: a text exceeds the context length.
    """
    ids = tokenizer(list(texts), context_length=context + 1)  # one more token, to detect truncation
    matches = ids == end
    ends = torch.where(matches.any(dim=-1), matches.int().argmax(dim=-1), context)
    if int(ends.max()) >= context:
        worst = texts[int(ends.argmax())]
        raise TextTooLongError(
            f"{too_long(worst, context)}; use fewer text tokens, a shorter template or a shorter class name"
        )
    return ids[:, :context], ends


def check_words(initial_words: str, tokens: int, n: int) -> None:
    """Raise a UserError if the initial words have fewer than n tokens."""
    if tokens < n:
        raise UserError(
            f"initial_words '{initial_words}' has {counted(tokens, 'token')}, but must initialise {n} text tokens; "
            f"add words, set initial_words to '', or use {counted(tokens, 'text token')}"
        )


def arrange(ids: Tensor, start: int, stops: Tensor, n: int, position: Position) -> tuple[Tensor, Tensor]:
    """Move the class name before the n slots, between them or after them.

    Args:
        ids: (C, L) [start][n slots][name][.][end][padding], with `start` start tokens.
        stops: (C,) positions after the class names; tokens at or after these positions are not moved.

    Returns:
        The reordered ids and the positions (C, n) of the slots.
    """
    before = {"end": n, "middle": n // 2, "front": 0}[position]
    slots = torch.arange(start, start + n).repeat(len(ids), 1)
    if before == n:
        return ids, slots
    ids = ids.clone()
    for row, slot, stop in zip(ids, slots, stops.tolist(), strict=True):
        name = row[start + n : stop].clone()
        after = start + before + len(name)
        row[after:stop] = row[start + before : start + n].clone()
        row[start + before : after] = name
        slot[before:] += len(name)
    return ids, slots


def shared_length(ids: Tensor, read: Tensor, slots: Tensor) -> int:
    """Return the length of the common prefix before all pooled tokens, or 0 if a slot lies outside the prefix."""
    differs = (ids != ids[0]).any(dim=0).int()
    length = int(differs.argmax()) if differs.any() else ids.shape[1]
    length = min(length, int(read.min()))
    return length if not slots.numel() or int(slots.max()) < length else 0
