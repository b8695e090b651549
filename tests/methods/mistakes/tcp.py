"""Mistakes in TCP."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, relu

from syncclip.clip import blocks, prompted
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.methods import kgcoop, tcp
from syncclip.methods.tcp import QuickGelu, Tcp
from tests.methods import test_tcp
from tests.methods.mistakes import weigh
from tests.methods.variants import Variant


def another_activation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(QuickGelu, "forward", lambda _, x: relu(x))


def exact_gelu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(QuickGelu, "forward", lambda _, x: gelu(x))


def one_block_later(patch: pytest.MonkeyPatch) -> None:
    right = tcp.checked_block
    patch.setattr(tcp, "checked_block", lambda block, layers: right(block, layers) + 1)


def one_block_earlier(patch: pytest.MonkeyPatch) -> None:
    """Blocks are counted from 0."""
    right = tcp.checked_block
    patch.setattr(tcp, "checked_block", lambda block, layers: right(block, layers) - 1)


def in_each_block_from_there_on(patch: pytest.MonkeyPatch) -> None:
    right = Tcp.prompts

    def wrong(method: Tcp, classes: slice = slice(None)) -> list[Tensor | None]:
        found = right(method, classes)
        return [*found, *found[-1:] * (method.clip.text.layers - len(found))]

    patch.setattr(Tcp, "prompts", wrong)


def added_instead_of_replaced(patch: pytest.MonkeyPatch) -> None:
    right = blocks.place

    def wrong(x: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
        return right(x, vectors, slots) if vectors.dim() == 2 else x + right(torch.zeros_like(x), vectors, slots)

    patch.setattr(prompted, "place", wrong)


def one_place_further(patch: pytest.MonkeyPatch) -> None:
    right = blocks.place
    patch.setattr(prompted, "place", lambda x, vectors, slots: right(x, vectors, slots + (vectors.dim() == 3)))


def vectors_in_another_order(patch: pytest.MonkeyPatch) -> None:
    """The network's output is read as (width, n), not as (n, width)."""
    right = Tcp.class_prompts

    def wrong(method: Tcp, classes: slice = slice(None)) -> Tensor:
        found = right(method, classes)
        return found.reshape(len(found), found.shape[2], found.shape[1]).transpose(1, 2)

    patch.setattr(Tcp, "class_prompts", wrong)


def vectors_of_base_classes_alone(patch: pytest.MonkeyPatch) -> None:
    """Novel classes keep the shared ones, here made from the mean of the base classes."""
    right = Tcp.class_prompts

    def wrong(method: Tcp, classes: slice = slice(None)) -> Tensor:
        found = right(method)
        known = torch.arange(len(found))[:, None, None] < method.base
        return torch.where(known, found, found[: method.base].mean(dim=0))[classes]

    patch.setattr(Tcp, "class_prompts", wrong)


def no_context_at_the_input(patch: pytest.MonkeyPatch) -> None:
    right = PromptedClip.encode_text

    def wrong(clip: PromptedClip, tokens: PromptTokens, prompts: blocks.Prompts = ()) -> Tensor:
        return right(clip, tokens, [None, *prompts[1:]] if prompts else ())

    patch.setattr(PromptedClip, "encode_text", wrong)


def ending_of_coop(patch: pytest.MonkeyPatch) -> None:
    right = tcp.fill
    patch.setattr(tcp, "fill", lambda sentence, names: right(f"{sentence.partition('{}')[0]}{{}}.", names))


def hand_written_sentence_of_the_ending(patch: pytest.MonkeyPatch) -> None:
    right = tcp.FrozenTexts
    patch.setattr(
        tcp, "FrozenTexts", lambda clip, names, _: right(clip, names, ["a photo of a {}, a type of aircraft."])
    )


def half_of_the_distance(patch: pytest.MonkeyPatch) -> None:
    weigh(patch, Tcp, lambda weights: {"knowledge": weights["knowledge"] / 2})


def detached_texts(patch: pytest.MonkeyPatch) -> None:
    """The distance is reported, but pulls at nothing."""
    right = kgcoop.cosine_similarity
    patch.setattr(kgcoop, "cosine_similarity", lambda a, b, dim: right(a.detach(), b, dim=dim))


def check(_: pytest.MonkeyPatch) -> None:
    test_tcp.check(Variant("tcp", "main"))
