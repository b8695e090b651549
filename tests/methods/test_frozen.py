from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import TextTooLongError
from syncclip.methods import build_method
from syncclip.methods.frozen import FrozenTexts
from tests.methods.classes import DATASET, batch

NAMES = ["cat", "blue_car"]
LONG = "one two three four five six seven eight nine ten eleven twelve {}"  # exceeds a context of 16 tokens


def test_features_are_the_normalised_mean_over_templates(clip: PromptedClip) -> None:
    texts = FrozenTexts(clip, NAMES, ["a {}.", "many of the {}"])
    first = clip.encode_text(clip.texts(["a cat.", "a blue car."]))
    second = clip.encode_text(clip.texts(["many of the cat", "many of the blue car"]))
    torch.testing.assert_close(texts(), normalize((first + second) / 2, dim=-1))


@pytest.mark.parametrize(("name", "calls"), [("kgcoop", [False, True, True]), ("vpt", [False])])
def test_texts_are_encoded_once_on_first_use(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch, name: str, calls: list[bool]
) -> None:
    """Calls of the text tower in two steps: with prompts or without."""
    prompted, original = [], clip.encode_text

    def counting(tokens: object, *prompts: object) -> torch.Tensor:
        prompted.append(bool(prompts))
        return original(tokens, *prompts)

    method = build_method(name, clip, DATASET)
    monkeypatch.setattr(clip, "encode_text", counting)
    for _ in range(2):
        method.loss(batch())["total"].backward()
    assert sorted(prompted) == calls


def test_features_from_inference_mode_can_be_used_in_training(clip: PromptedClip) -> None:
    texts = FrozenTexts(clip, NAMES, ["a {}."])
    with torch.inference_mode():
        texts()
    images = torch.randn(2, texts().shape[1], requires_grad=True)
    (images @ texts().T).sum().backward()
    assert not texts().requires_grad


def test_features_follow_to_another_type_and_are_not_in_the_state_dict(clip: PromptedClip) -> None:
    texts = FrozenTexts(clip, NAMES, ["a {}."])
    texts()
    assert texts.double()().dtype == torch.float64
    assert not texts.state_dict()


def test_templates_that_are_too_long(clip: PromptedClip) -> None:
    with pytest.raises(TextTooLongError, match="exceeds the CLIP context"):
        FrozenTexts(clip, NAMES, ["a {}.", LONG])()
    with_long, without = (FrozenTexts(clip, NAMES, each, leave_out_long=True) for each in (["a {}.", LONG], ["a {}."]))
    assert torch.equal(with_long(), without())
    with pytest.raises(TextTooLongError, match="none of 1 templates"):
        FrozenTexts(clip, NAMES, [LONG], leave_out_long=True)()
