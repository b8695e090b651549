"""Token embeddings of class names and prompts, with slots for learned vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from syncclip.clip.prompt_text import too_long
from syncclip.core.settings import Position, UserError
from syncclip.core.text import counted

WORD_TOKENS = 4
"""Maximum number of learned tokens initialised from words; others are random, as in the code of IVLP and MaPLe."""


class TextTooLongError(UserError):
    """Raised if a text exceeds the context, since tokenizers would silently truncate it."""


class PromptTokens(nn.Module):
    """Embedded texts; a module without parameters or state dict, so that it moves to a device with its method.

    Attributes:
        ids: (C, L) token ids.
        embeddings: (C, L, width) token embeddings without positions.
        read: (C,) positions of the tokens whose output is the feature, such as CLIP's end token.
        slots: (C, n) positions of the learned vectors.
        shared: length of the common prefix, including all slots, that a causal tower computes once; 0 for other towers.
        initial: (n, width) initial vectors from words, or None.
        lengths: number of tokens of each text, up to the token that is read.
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
        """Return a slice of the texts, with the padded length and shared tokens of all texts."""
        return self._some(rows, self.lengths[rows], self.ids.shape[1])

    def group(self, rows: list[int]) -> PromptTokens:
        """Return the texts of these rows, truncated to the longest of them, with the shared tokens of all texts."""
        lengths = [self.lengths[row] for row in rows]
        return self._some(rows, lengths, max(lengths))

    def _some(self, rows: slice | list[int], lengths: list[int], longest: int) -> PromptTokens:
        texts = self.ids[rows, :longest], self.embeddings[rows, :longest], self.read[rows], self.slots[rows]
        return PromptTokens(*texts, self.shared, self.initial, lengths)


def frame(tokenizer: Callable[..., Tensor], context: int) -> tuple[int, int]:
    """Return the number of start tokens of a tokenizer (1 in CLIP, 0 in SigLIP) and the id of its end token, or of its
    padding token if there is no end token."""
    empty, word = tokenizer(["", "a"], context_length=context)
    start = int((empty != word).int().argmax())
    return start, int(empty[start])


def tokenize(tokenizer: Callable[..., Tensor], texts: Sequence[str], context: int, end: int) -> tuple[Tensor, Tensor]:
    """Return token ids (C, context) and the positions (C,) of the end tokens.

    Raises:
        TextTooLongError: a text exceeds the context.
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
            f"initial_words '{initial_words}' has {counted(tokens, 'token')} to initialise {n} text tokens; "
            f"use more words, no words, or {counted(tokens, 'text token')}"
        )


def arrange(ids: Tensor, start: int, stops: Tensor, n: int, position: Position) -> tuple[Tensor, Tensor]:
    """Move the name before, between or after the n slots.

    Args:
        ids: (C, L) [start][n slots][name][.][end][padding], with `start` start tokens.
        stops: (C,) positions after the names; later tokens are not moved.

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
    """Return the length of the common prefix before all read positions; 0 if it does not include all slots."""
    differs = (ids != ids[0]).any(dim=0).int()
    length = int(differs.argmax()) if differs.any() else ids.shape[1]
    length = min(length, int(read.min()))
    return length if not slots.numel() or int(slots.max()) < length else 0
