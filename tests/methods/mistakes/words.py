"""Mistakes in CoOp, CoCoOp and KgCoOp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from syncclip.clip import prompted
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import kgcoop
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.coop import CoOp
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.kgcoop import KgCoOp
from tests.methods import parity, text_methods
from tests.methods.mistakes import Plant, weigh
from tests.methods.parity import Fixture


def names_left_behind(patch: pytest.MonkeyPatch) -> None:
    """Class names stay behind the context, wherever they were asked to stand."""
    right = prompted.arrange
    patch.setattr(prompted, "arrange", lambda *asked: right(*asked[:-1], "end"))


def split_one_later(patch: pytest.MonkeyPatch) -> None:
    """One vector more than half of them before the name."""
    right = prompted.arrange

    def wrong(*asked: object) -> tuple[Tensor, Tensor]:
        ids, slots = right(*asked)  # type: ignore[arg-type]
        half = slots.shape[1] // 2
        for row, slot in zip(ids, slots, strict=True):
            name, behind = int(slot[half - 1]) + 1, int(slot[half])
            row[name : behind + 1] = row[name : behind + 1].roll(1)
            slot[half] = name
        return ids, slots

    patch.setattr(prompted, "arrange", wrong)


def halves_swapped(patch: pytest.MonkeyPatch) -> None:
    """The vectors behind the name enter before it."""
    right = prompted.arrange

    def wrong(*asked: object) -> tuple[Tensor, Tensor]:
        ids, slots = right(*asked)  # type: ignore[arg-type]
        return ids, slots.roll(slots.shape[1] // 2, dims=1)

    patch.setattr(prompted, "arrange", wrong)


def contexts_of_other_classes(patch: pytest.MonkeyPatch) -> None:
    right = PromptedClip.encode_text
    patch.setattr(PromptedClip, "encode_text", lambda c, t, prompts: right(c, t, [prompts[0].roll(1, dims=0)]))


def words_one_too_early(patch: pytest.MonkeyPatch) -> None:
    """The context starts as the start token and all words but the last."""
    right = PromptedClip.text_context

    def wrong(clip: PromptedClip, *asked: object) -> prompted.PromptTokens:
        tokens = right(clip, *asked)  # type: ignore[arg-type]
        assert tokens.initial is not None
        tokens.initial = tokens.embeddings[0, : len(tokens.initial)]
        return tokens

    patch.setattr(PromptedClip, "text_context", wrong)


def no_full_stop(patch: pytest.MonkeyPatch) -> None:
    right = prompted.prompt_texts
    patch.setattr(prompted, "prompt_texts", lambda *asked: [text.removesuffix(".") for text in right(*asked)])


def raw_text_features(patch: pytest.MonkeyPatch) -> None:
    """Text features enter the scores at their own length."""
    patch.setattr(CoOp, "text_features", lambda s: s.clip.encode_text(s.tokens, list(s.text_prompts)))


def raw_features_into_the_net(patch: pytest.MonkeyPatch) -> None:
    """Image features enter CoCoOp's small net at their own length."""
    patch.setattr(CoCoOp, "contexts", lambda s, images: s.text_prompts[0] + s.meta_net(images)[:, None])


def shift_of_the_first_vector(patch: pytest.MonkeyPatch) -> None:
    """An image shifts one vector of its context, not all."""
    right = CoCoOp.contexts

    def wrong(method: CoCoOp, images: Tensor) -> Tensor:
        shifted = right(method, images)
        return torch.cat([shifted[:, :1], method.text_prompts[0][1:].expand(len(images), -1, -1)], dim=1)

    patch.setattr(CoCoOp, "contexts", wrong)


def shifts_of_other_images(patch: pytest.MonkeyPatch) -> None:
    right = CoCoOp.contexts
    patch.setattr(CoCoOp, "contexts", lambda s, images: right(s, images).roll(1, dims=0))


def shift_without_gradient(patch: pytest.MonkeyPatch) -> None:
    """Scores are right, but the small net never learns."""
    right = CoCoOp.contexts

    def wrong(method: CoCoOp, images: Tensor) -> Tensor:
        context = method.text_prompts[0]
        return context + (right(method, images) - context).detach()

    patch.setattr(CoCoOp, "contexts", wrong)


def linear_net(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nn.ReLU, "forward", lambda s, x: x)


def knowledge_weighted_twice(patch: pytest.MonkeyPatch) -> None:
    weigh(patch, KgCoOp, lambda weights: {name: 2 * weight for name, weight in weights.items()})


def knowledge_of_another_template(patch: pytest.MonkeyPatch) -> None:
    right = FrozenTexts.__init__
    patch.setattr(FrozenTexts, "__init__", lambda s, clip, names, templates: right(s, clip, names, ["one {} there."]))


def squared_distance(patch: pytest.MonkeyPatch) -> None:
    """The paper's distance, twice the published code's."""
    patch.setattr(kgcoop, "cosine_similarity", lambda a, b, dim: 2 * cosine_similarity(a, b, dim=dim) - 1)


def summed_distance(patch: pytest.MonkeyPatch) -> None:
    """The sum over classes, not their mean."""
    patch.setattr(
        kgcoop, "cosine_similarity", lambda a, b, dim: 1 - (1 - cosine_similarity(a, b, dim=dim)).sum(0, keepdim=True)
    )


def detached_knowledge(patch: pytest.MonkeyPatch) -> None:
    """The distance is reported, but pulls at nothing."""
    patch.setattr(kgcoop, "cosine_similarity", lambda a, b, dim: cosine_similarity(a.detach(), b, dim=dim))


def coop(wanted: Callable[[Mapping[str, Any]], bool]) -> list[Fixture]:
    """The first variant of CoOp's file with such settings."""
    return [fixture for fixture in text_methods.coop_variants() if wanted(fixture.config)][:1]


with parity.committed():
    MIDDLE, FRONT, AT_END = (
        coop(lambda config, place=place: config["CLASS_TOKEN_POSITION"] == place)  # type: ignore[misc]
        for place in ("middle", "front", "end")
    )
    OWN, PHRASE = coop(lambda config: config["CSC"]), coop(lambda config: bool(config["CTX_INIT"]))
    COCOOP, KGCOOP = ([parity.load(name) for name in parity.names(method)] for method in ("cocoop", "kgcoop"))


def cases(
    check: Callable[[Fixture], None], fixtures: list[Fixture], *plants: Plant
) -> list[tuple[Plant, Callable[[pytest.MonkeyPatch], None]]]:
    return [(plant, partial(check_of, check, fixture)) for plant in plants for fixture in fixtures]


def check_of(check: Callable[[Fixture], None], fixture: Fixture, _: pytest.MonkeyPatch) -> None:
    check(fixture)


SHIFTS = (shift_of_the_first_vector, shifts_of_other_images, shift_without_gradient)
DISTANCES = (squared_distance, summed_distance, detached_knowledge)
CASES = [
    *cases(text_methods.check_coop, MIDDLE + FRONT, names_left_behind),
    *cases(text_methods.check_coop, MIDDLE, split_one_later, halves_swapped),
    *cases(text_methods.check_coop, OWN, contexts_of_other_classes),
    *cases(text_methods.check_coop, AT_END, no_full_stop, raw_text_features),
    *cases(text_methods.check_start, PHRASE + COCOOP, words_one_too_early),
    *cases(text_methods.check_start, AT_END, no_full_stop),
    *cases(text_methods.check_cocoop, COCOOP, raw_features_into_the_net, linear_net, *SHIFTS),
    *cases(text_methods.check_kgcoop, KGCOOP, knowledge_weighted_twice, knowledge_of_another_template, *DISTANCES),
]
