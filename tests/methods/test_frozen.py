"""Hand-written sentences: what their features are, and how often they are encoded."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import TextTooLongError
from syncclip.methods.frozen import FrozenTexts

NAMES = ["cat", "blue_car"]
LONG = "one two three four five six seven eight nine ten eleven twelve {}"  # of 16 tokens start and end are taken too


def raw(clip: PromptedClip, *sentences: str) -> torch.Tensor:
    return clip.encode_text(clip.texts(sentences))


def test_several_templates_give_the_direction_of_the_mean_of_raw_features(clip: PromptedClip) -> None:
    texts = FrozenTexts(clip, NAMES, ["a {}.", "many of the {}"])
    first, second = raw(clip, "a cat.", "a blue car."), raw(clip, "many of the cat", "many of the blue car")
    torch.testing.assert_close(texts(), normalize((first + second) / 2, dim=-1))


def test_they_are_encoded_when_first_asked_for_and_never_again(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, right = [], clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda *a: calls.append(1) or right(*a))
    texts = FrozenTexts(clip, NAMES, ["a {}.", "the {}."])
    assert not calls
    assert texts() is texts()
    assert len(calls) == 2


def test_what_an_evaluation_asked_for_first_serves_a_training(clip: PromptedClip) -> None:
    texts = FrozenTexts(clip, NAMES, ["a {}."])
    with torch.inference_mode():
        texts()
    images = torch.randn(2, texts().shape[1], requires_grad=True)
    (images @ texts().T).sum().backward()
    assert not texts().requires_grad


def test_they_follow_to_another_type_and_stay_out_of_the_state_dict(clip: PromptedClip) -> None:
    texts = FrozenTexts(clip, NAMES, ["a {}."])
    texts()
    assert texts.double()().dtype == torch.float64
    assert not texts.state_dict()


def test_a_sentence_that_is_too_long_is_refused_by_its_words(clip: PromptedClip) -> None:
    with pytest.raises(TextTooLongError, match="does not fit"):
        FrozenTexts(clip, NAMES, ["a {}.", LONG])()


def test_templates_that_are_too_long_can_be_left_out(clip: PromptedClip) -> None:
    texts, short = (FrozenTexts(clip, NAMES, each, leave_out_long=True) for each in (["a {}.", LONG], ["a {}."]))
    assert torch.equal(texts(), short())


def test_not_all_templates_can_be_left_out(clip: PromptedClip) -> None:
    with pytest.raises(TextTooLongError, match="none of 1 templates"):
        FrozenTexts(clip, NAMES, [LONG], leave_out_long=True)()
