"""KgCoOp: what its learned sentences are held near to."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.zeroshot import ZeroShot
from tests.methods.classes import DATASET, batch


@pytest.mark.parametrize("sizes", [(4, 0, 0), (0, 4, 4), (4, 4, 4)])
def test_candidates_are_held_near_their_hand_written_sentences(clip: PromptedClip, sizes: tuple[int, int, int]) -> None:
    method, images = (
        build_method("kgcoop", clip, DATASET, KgCoOp.Settings(initial_words="", knowledge_weight=3)),
        batch(*sizes),
    )
    candidates = 3 if sizes == (4, 0, 0) else 5
    losses = method.loss(images)
    written = build_method("zeroshot", clip, DATASET).text_features()
    squared = (method.text_features() - written).square().sum(dim=1)[:candidates]
    torch.testing.assert_close(losses["knowledge"], squared.mean() / 2)
    expected = cross_entropy(method.logits(images.images)[:, :candidates], images.labels)
    torch.testing.assert_close(losses["classification"], expected)
    torch.testing.assert_close(losses["total"], expected + 3 * losses["knowledge"])


def test_the_hand_written_sentence_may_be_another_than_the_datasets(clip: PromptedClip) -> None:
    method = build_method("kgcoop", clip, DATASET, KgCoOp.Settings(template="one {} there"))
    other = build_method("zeroshot", clip, DATASET, ZeroShot.Settings(templates=("one {} there",)))
    torch.testing.assert_close(method.frozen_texts(), other.text_features())


def test_hand_written_sentences_are_encoded_once(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    method, encoded, right = build_method("kgcoop", clip, DATASET), [], clip.encode_text
    monkeypatch.setattr(
        clip, "encode_text", lambda tokens, *prompts: encoded.append(bool(prompts)) or right(tokens, *prompts)
    )
    for _ in range(3):
        method.loss(batch())["total"].backward()
    assert sorted(encoded) == [False, True, True, True]


def test_a_context_that_starts_as_the_template_starts_without_distance(clip: PromptedClip) -> None:
    distance = build_method("kgcoop", clip, DATASET).loss(batch())["knowledge"]
    assert distance.item() == pytest.approx(0, abs=1e-5)


def test_only_the_context_is_learned(clip: PromptedClip) -> None:
    method = build_method("kgcoop", clip, DATASET)
    method.loss(batch())
    assert list(method.state_dict()) == ["text_prompts.0"] == [name for name, _ in method.named_parameters()]
