"""Texts with free places: class names as token embeddings, and where learned vectors enter among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from syncclip.core.settings import UserError
from syncclip.core.text import spoken

# Where the number of learned tokens is given beside a phrase, the phrase gives the starting values of at most so many;
# longer contexts start at random. The published code of IVLP, MaPLe and their followers does it so, and published
# numbers depend on it.
PHRASE_TOKENS = 4

LIKE = 3  # lengths that differ by less go through a causal tower together
FEW = 32  # so many texts rather go with longer ones than alone

Position = Literal["end", "middle", "front"]


class TextTooLongError(UserError):
    """A text does not fit the context. (Tokenizers would cut it in silence, and with it the class name.)"""


class PromptTokens(nn.Module):
    """Embedded texts; those of a causal tower are cut to the shortest context that holds every token that is read.

    A module without parameters, so that it moves to a device with the method that owns it; absent from its state dict.

    Attributes:
        ids: (C, L) token ids.
        embeddings: (C, L, width) without positions.
        read: (C,) where the tower's output is read: in CLIP the end token.
        slots: (C, n) positions that learned vectors take.
        shared: so many first tokens are the same in all texts and end before every read position; all slots lie
            among them, or it is 0. A causal tower runs over them once, not once a class; for another it is 0.
        initial: (n, width) the words that the slots held, where they shall start as words; else None.
        lengths: of each text up to the token that is read.
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
        """Some of the texts, cut and shared as all of them are."""
        return self._some(rows, self.lengths[rows], self.ids.shape[1])

    def group(self, rows: list[int]) -> PromptTokens:
        """Some of the texts, cut to the longest of them, and shared as all of them are."""
        lengths = [self.lengths[row] for row in rows]
        return self._some(rows, lengths, max(lengths))

    def _some(self, rows: slice | list[int], lengths: list[int], longest: int) -> PromptTokens:
        texts = self.ids[rows, :longest], self.embeddings[rows, :longest], self.read[rows], self.slots[rows]
        return PromptTokens(*texts, self.shared, self.initial, lengths)


def of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of like length, the shortest first; a group of few has taken in longer ones, if there are any."""
    groups: list[list[int]] = [[]]
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    for _, rows in groupby(by_length, key=lambda row: lengths[row] // LIKE):
        if len(groups[-1]) >= FEW:
            groups.append([])
        groups[-1].extend(rows)
    return groups


def prompt_texts(classnames: Sequence[str], phrase: str, n: int) -> list[str]:
    """The sentence "<phrase> <name>." of every class; n times "X" in place of an empty phrase."""
    prefix = phrase or " ".join(["X"] * n)
    return [f"{prefix} {spoken(name)}.".strip() for name in classnames]


class Frame(NamedTuple):
    """What a tokenizer puts around the words.

    Attributes:
        start: so many tokens stand before them: one in CLIP, none in SigLIP.
        end: id of the token behind them; where a tokenizer has no end token, that is padding.
    """

    start: int
    end: int


def frame(tokenizer: Callable[..., Tensor], context: int) -> Frame:
    """The frame as a text of one word shows it, beside one of none."""
    empty, word = tokenizer(["", "a"], context_length=context)
    start = int((empty != word).int().argmax())
    return Frame(start, int(empty[start]))


def tokenize(tokenizer: Callable[..., Tensor], texts: Sequence[str], context: int, end: int) -> tuple[Tensor, Tensor]:
    """Token ids (C, context) and the positions (C,) behind the last word, which hold the id `end`.

    Raises:
        TextTooLongError: a text does not fit the context.
    """
    ids = tokenizer(list(texts), context_length=context + 1)  # one more than fits shows what would be cut
    found = ids == end
    ends = torch.where(found.any(dim=-1), found.int().argmax(dim=-1), context)
    if int(ends.max()) >= context:
        worst = texts[int(ends.argmax())]
        raise TextTooLongError(
            f"the text '{worst}' does not fit the {context} tokens of this CLIP's context; "
            "use fewer text tokens, a shorter template or a shorter class name"
        )
    return ids[:, :context], ends


def arrange(ids: Tensor, start: int, stops: Tensor, n: int, position: Position) -> tuple[Tensor, Tensor]:
    """Move the name before, between or after the n free places.

    Args:
        ids: (C, L) [start][n places][name][.][end][padding], with `start` start tokens.
        stops: (C,) positions behind the names; from there on all stays where it is.

    Returns:
        The ids in their new order, and the positions (C, n) of the free places.
    """
    before = {"end": n, "middle": n // 2, "front": 0}[position]
    places = torch.arange(start, start + n)
    slots = places.repeat(len(ids), 1)
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
    """How many first tokens all texts share, short of every read position; 0 if a slot lies beyond them."""
    differs = (ids != ids[0]).any(dim=0).int()
    length = int(differs.argmax()) if differs.any() else ids.shape[1]
    length = min(length, int(read.min()))
    return length if not slots.numel() or int(slots.max()) < length else 0
