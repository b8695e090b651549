"""From class names to token embeddings, with places among them for learned vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from syncclip.clip.blocks import Prompts, of_each_class
from syncclip.clip.prompt_text import too_long
from syncclip.core.settings import Position, UserError
from syncclip.core.text import counted

# Where the number of learned tokens is given beside a phrase, the phrase initialises at most this many; longer contexts
# start at random. The published code of IVLP, MaPLe and their followers does so, and published numbers depend on it.
PHRASE_TOKENS = 4

LENGTH_STEP = 3  # lengths that differ by less go through a causal tower together
SMALL_GROUP = 32  # fewer texts than this join the next longer ones


class TextTooLongError(UserError):
    """A text does not fit the context. (Tokenizers would silently truncate it, and with it the class name.)"""


class PromptTokens(nn.Module):
    """Embedded texts; those of a causal tower are cut after the last token that is read.

    A module without parameters, so that it moves to a device with the method that owns it; absent from its state dict.

    Attributes:
        ids: (C, L) token ids.
        embeddings: (C, L, width) without positions.
        read: (C,) position where the tower's output is read: in CLIP the end token.
        slots: (C, n) positions of the learned vectors.
        shared: number of first tokens that are the same in all texts and before every read position; they include all
            slots, or it is 0. A causal tower runs over them once instead of once a class; for others it is 0.
        initial: (n, width) embeddings of the phrase's words at the slots, if vectors start as words; else None.
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
        """Some of the texts, with the length and shared tokens of all."""
        return self._some(rows, self.lengths[rows], self.ids.shape[1])

    def group(self, rows: list[int]) -> PromptTokens:
        """Some of the texts, cut to the longest of them, with the shared tokens of all."""
        lengths = [self.lengths[row] for row in rows]
        return self._some(rows, lengths, max(lengths))

    def _some(self, rows: slice | list[int], lengths: list[int], longest: int) -> PromptTokens:
        texts = self.ids[rows, :longest], self.embeddings[rows, :longest], self.read[rows], self.slots[rows]
        return PromptTokens(*texts, self.shared, self.initial, lengths)


def of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of similar length, the shortest first; a small group also takes longer ones, if any."""
    groups: list[list[int]] = [[]]
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    for _, rows in groupby(by_length, key=lambda row: lengths[row] // LENGTH_STEP):
        if len(groups[-1]) >= SMALL_GROUP:
            groups.append([])
        groups[-1].extend(rows)
    return groups


def in_groups(
    encode: Callable[[PromptTokens, list[Tensor | None]], Tensor],
    tokens: PromptTokens,
    prompts: Prompts,
    groups: list[list[int]],
) -> Tensor:
    """Text features of all rows, (C, D) or (B, C, D), encoded one group after the other.

    Args:
        encode: features of some rows with their prompts, see `PromptedClip.encode_text`.
        prompts: of all rows.
    """
    features = [
        encode(
            tokens.group(rows),
            [each[..., rows, :, :] if each is not None and of_each_class(each) else each for each in prompts],
        )
        for rows in groups
    ]
    order = torch.tensor([row for rows in groups for row in rows], device=tokens.read.device)
    return torch.cat(features, dim=-2).index_select(-2, order.argsort())


def frame(tokenizer: Callable[..., Tensor], context: int) -> tuple[int, int]:
    """What a tokenizer adds around the words, found by comparing an empty text with one of a single word.

    Returns:
        The number of tokens before them: one in CLIP, none in SigLIP; and the id of the token after them: padding,
        where a tokenizer has no end token.
    """
    empty, word = tokenizer(["", "a"], context_length=context)
    start = int((empty != word).int().argmax())
    return start, int(empty[start])


def tokenize(tokenizer: Callable[..., Tensor], texts: Sequence[str], context: int, end: int) -> tuple[Tensor, Tensor]:
    """Token ids (C, context) and the positions (C,) after the last word, where the id is `end`.

    Raises:
        TextTooLongError: a text does not fit the context.
    """
    ids = tokenizer(list(texts), context_length=context + 1)  # one more than fits, to detect truncation
    found = ids == end
    ends = torch.where(found.any(dim=-1), found.int().argmax(dim=-1), context)
    if int(ends.max()) >= context:
        worst = texts[int(ends.argmax())]
        raise TextTooLongError(
            f"{too_long(worst, context)}; use fewer text tokens, a shorter template or a shorter class name"
        )
    return ids[:, :context], ends


def check_phrase(phrase: str, held: int, n: int) -> None:
    """Refuse a phrase of fewer than n tokens.

    Args:
        held: how many it has.

    Raises:
        UserError: they are fewer.
    """
    if held < n:
        raise UserError(
            f"the phrase '{phrase}' has {counted(held, 'token')}, but {n} text tokens are to start from it; "
            f"use a longer phrase, an empty one, or {counted(held, 'text token')}"
        )


def arrange(ids: Tensor, start: int, stops: Tensor, n: int, position: Position) -> tuple[Tensor, Tensor]:
    """Move the name before, between or after the n places.

    Args:
        ids: (C, L) [start][n places][name][.][end][padding], with `start` start tokens.
        stops: (C,) positions after the names; tokens from there on are not moved.

    Returns:
        The ids in their new order, and the positions (C, n) of the places.
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
    """Number of first tokens that all texts share, before every read position; 0 if a slot is not among them."""
    differs = (ids != ids[0]).any(dim=0).int()
    length = int(differs.argmax()) if differs.any() else ids.shape[1]
    length = min(length, int(read.min()))
    return length if not slots.numel() or int(slots.max()) < length else 0
