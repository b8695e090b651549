"""Optimisations of `PromptedClip`, compared with a loop over full-length texts; see also test_families.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from syncclip.clip import prompted
from syncclip.clip.blocks import Prompts
from syncclip.clip.length_buckets import of_like_length
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import Position, UserError

NAMES = ["cat", "golden_retriever", "blue car"]
TWO_LENGTHS = [name for _ in range(20) for name in ["the old blue car in the rain", "cat", "a red sun", "dog"]]
"""80 class names that are encoded in two groups of similar length."""


def full_texts(clip: PromptedClip, ids: Tensor, slots: Tensor, prompts: Prompts) -> Tensor:
    """Text features, one class at a time over the full context."""
    model, features = clip.model, []
    ids = torch.nn.functional.pad(ids, (0, clip.context - ids.shape[1]))
    for c in range(len(ids)):
        x = model.token_embedding(ids[c : c + 1])
        for i, block in enumerate(model.transformer.resblocks):
            if i < len(prompts) and (vectors := prompts[i]) is not None:
                x = x.clone()
                x[0, slots[c]] = vectors[c] if vectors.dim() == 3 else vectors
            x = block(x + model.positional_embedding if i == 0 else x, attn_mask=model.attn_mask)
        features.append(model.ln_final(x)[0, ids[c].argmax()] @ model.text_projection)
    return torch.stack(features)


def check_gradients(features: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    weights = torch.randn_like(expected)
    gradients = (torch.autograd.grad((x * weights).sum(), inputs) for x in (features, expected))
    for actual, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize("names", [["cat"], NAMES])
@pytest.mark.parametrize(("n", "depth"), [(1, 1), (2, 3), (4, 3), (6, 3)])
def test_text_prompts_match_the_full_context(clip: PromptedClip, names: list[str], n: int, depth: int) -> None:
    tokens = clip.text_context(names, "a photo of a", n)
    prompts = [torch.randn(n, clip.text.width) for _ in range(depth)]
    expected = full_texts(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(clip.encode_text(tokens, prompts), expected, rtol=0, atol=1e-5)


def test_texts_are_cut_to_the_longest_and_share_their_prefix(clip: PromptedClip) -> None:
    tokens = clip.text_context(["cat", "dog"], "a photo of a", 2)
    assert tokens.ids.shape[1] == int(tokens.read.max()) + 1 < clip.context
    assert tokens.shared == 5  # start, two slots, "of a"


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_texts_in_groups_of_similar_length_match_the_full_context(
    clip: PromptedClip, position: Position, class_specific: bool
) -> None:
    tokens = clip.text_context(TWO_LENGTHS, "", 2, position)
    assert [len(rows) for rows in of_like_length(tokens.lengths)] == [60, 20]
    shape = [*([80] if class_specific else []), 2, clip.text.width]
    prompts = [torch.randn(*shape).requires_grad_() for _ in range(2)]
    features = clip.encode_text(tokens, prompts)
    expected = full_texts(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    check_gradients(features, expected, prompts)


def test_groups_with_class_specific_prompts_in_a_deeper_block(clip: PromptedClip) -> None:
    tokens = clip.text_context(TWO_LENGTHS, "", 2)
    prompts = [torch.randn(2, clip.text.width), None, torch.randn(80, 2, clip.text.width)]
    expected = full_texts(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(clip.encode_text(tokens, prompts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("names", [NAMES, ["cat"] * 40 + ["the old blue car in the rain"] * 2])
def test_text_prompts_may_differ_between_images(clip: PromptedClip, names: list[str]) -> None:
    tokens = clip.text_context(names, "", 3)
    for classes in {1, len(names)}:
        first, second = torch.randn(2, classes, 3, clip.text.width), torch.randn(3, clip.text.width)
        expected = torch.stack([clip.encode_text(tokens, [vectors, second]) for vectors in first])
        torch.testing.assert_close(clip.encode_text(tokens, [first, second]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("class_specific_blocks", [(), (1,), (2,), (1, 2)])
@pytest.mark.parametrize("images", [0, 2])
def test_blocks_without_prompts_and_with_class_specific_ones(
    clip: PromptedClip, class_specific_blocks: tuple[int, ...], images: int
) -> None:
    tokens, width, classes = clip.text_context(NAMES, "", 3), clip.text.width, len(NAMES)
    first = torch.randn(*([images, 1] if images else []), 3, width).requires_grad_()
    deeper = [
        torch.randn(classes, 3, width).requires_grad_() if block in class_specific_blocks else None for block in (1, 2)
    ]
    features = clip.encode_text(tokens, [first, *deeper])
    by_image = [full_texts(clip, tokens.ids, tokens.slots, [each, *deeper]) for each in first.view(-1, 3, width)]
    expected = torch.stack(by_image) if images else by_image[0]
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    check_gradients(features, expected, [first, *(vectors for vectors in deeper if vectors is not None)])


def test_fewer_shared_vectors_than_slots_fill_the_first_ones(clip: PromptedClip) -> None:
    tokens, shared = clip.text_context(NAMES, "", 3), torch.randn(2, clip.text.width)
    class_specific = torch.randn(len(NAMES), 3, clip.text.width)
    last = clip.text.token_embedding(tokens.ids[:1, 3]).detach()
    expected = clip.encode_text(tokens, [torch.cat([shared, last]), class_specific])
    torch.testing.assert_close(clip.encode_text(tokens, [shared, class_specific]), expected, rtol=0, atol=1e-6)


def test_other_prompts_need_a_vector_for_each_slot(clip: PromptedClip) -> None:
    tokens, width = clip.text_context(NAMES, "", 3), clip.text.width
    shapes = [[(2, width)], [(3, width), (2, width)], [(2, width), (3, width)]]
    shapes += [[(2, width), (len(NAMES), count, width)] for count in (2, 4)]
    for prompts in shapes:
        with pytest.raises(AssertionError):
            clip.encode_text(tokens, [torch.randn(*shape) for shape in prompts])


@pytest.mark.parametrize("block", [1, 2])
def test_shared_tokens_are_computed_once_up_to_the_first_class_specific_block(
    clip: PromptedClip, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, queries, attend = clip.text_context(NAMES, "", 3), [], prompted.attend

    def counting_attend(module: object, query: Tensor | None, x: Tensor, *rest: object) -> Tensor:
        queries.append((x if query is None else query).shape[-2])
        return attend(module, query, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(prompted, "attend", counting_attend)
    class_specific = torch.randn(len(NAMES), 3, clip.text.width)
    clip.encode_text(tokens, [torch.randn(3, clip.text.width), *[None] * (block - 1), class_specific])
    length, shared = tokens.ids.shape[1], tokens.shared
    assert queries == [length - shared, shared] * block + [length] * (2 - block) + [1]


@pytest.mark.parametrize("position", ["middle", "front"])
def test_a_full_stop_merged_into_a_name_moves_with_it(clip: PromptedClip, position: Position) -> None:
    *_, last, end = clip.texts(["cat (old)."]).ids[0].tolist()
    tokens = clip.text_context(["cat (old)"], "", 2, position)
    assert last not in clip.texts(["cat (old)"]).ids, "')' and '.' are one token"
    assert tokens.ids[0, -3 if position == "middle" else -4] == last
    assert tokens.slots[0].tolist() == ([1, 6] if position == "middle" else [5, 6])
    assert tokens.ids[0, -1] == end


def test_initial_words_determine_the_number_of_slots(clip: PromptedClip) -> None:
    tokens = clip.text_context(["cat", "dog"], "this is a photo of a", None)
    assert tokens.initial is not None
    assert torch.equal(tokens.initial, clip.model.token_embedding(tokens.ids[0, 1:7]))
    assert tokens.slots.tolist() == [[1, 2, 3, 4, 5, 6]] * 2


def test_a_word_of_several_tokens_gives_one_slot_and_keeps_the_rest(clip: PromptedClip) -> None:
    tokens, plain = clip.text_context(["cat"], "xylophone cat", None), clip.texts(["xylophone cat cat."])
    assert torch.equal(tokens.ids, plain.ids)
    assert tokens.slots.tolist() == [[1, 2]]
    assert plain.ids.shape[1] > 6, "the first word has more than one token"


def test_a_slice_of_the_texts_has_the_same_features(clip: PromptedClip) -> None:
    tokens, prompts = clip.text_context(NAMES, "", 3), [torch.randn(3, clip.text.width)]
    expected = clip.encode_text(tokens, prompts)[1:3]
    torch.testing.assert_close(clip.encode_text(tokens[1:3], prompts), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "n", "reason"), [("", 20, "fewer text tokens"), ("a photo", 3, "'a photo' has 2 tokens")]
)
def test_unsuitable_numbers_of_text_tokens_are_errors(clip: PromptedClip, words: str, n: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        clip.text_context(NAMES, words, n)


def test_more_prompts_than_blocks_are_an_error(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="reduce the depth"):
        clip.encode_images(torch.zeros(1, 3, 32, 32), [torch.zeros(1, clip.vision.width)] * 4)
