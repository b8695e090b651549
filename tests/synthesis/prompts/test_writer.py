from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from syncclip.core.settings import UserError
from syncclip.synthesis.prompts.captions import WriterSettings, caption
from syncclip.synthesis.prompts.writer import Writer
from tests.synthesis.prompts import CLASSES
from tests.worlds.language import asked


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("A cat sleeps on a sofa.", "A cat sleeps on a sofa."),
        ("Two Cats play.", "Two Cats play."),
        ("It sleeps on a sofa.", "cat, It sleeps on a sofa."),
        ("A caterpillar on a leaf", "cat, A caterpillar on a leaf"),
        ('\n\n1. "A cat in the snow"\n2. A cat', "A cat in the snow"),
        ("**A cat at dawn.** ", "A cat at dawn."),
        ("A cat at dawn. It looks at the", "A cat at dawn."),
        ("A cat of 3.5 kg sits\tthere", "A cat of 3.5 kg sits there"),
        ("A cat\u200b sits", "A cat sits"),
        ("...", None),
        ("", None),
    ],
)
def test_an_output_becomes_one_line_with_the_class_name(output: str, expected: str | None) -> None:
    assert caption(output, "cat") == expected


def test_captions_are_distinct_and_deterministic(model: str) -> None:
    writer = Writer(asked(model), "cpu")
    captions = {name: writer.write(name) for name in CLASSES}
    assert all(len(set(of_class)) == 3 for of_class in captions.values())
    assert all(name in caption for name, of_class in captions.items() for caption in of_class)
    again = Writer(asked(model), "cpu")
    assert {name: again.write(name) for name in reversed(CLASSES)} == captions
    assert Writer(asked(model, seed=1), "cpu").write("cat") != captions["cat"]


def test_a_chat_template_is_applied(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(asked(model), "cpu")
    inputs: list[str] = []
    generate = writer.model.generate

    def recorded(input_ids: Tensor, **kwargs: Any) -> Any:
        inputs.append(writer.tokenizer.decode(input_ids[0]))
        return generate(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(writer.model, "generate", recorded)
    writer.write("cat")
    writer.tokenizer.chat_template = "{% for m in messages %}light on {{ m.content }}{% endfor %} shows"
    writer.write("cat")
    assert (inputs[0], inputs[-1]) == ("a photo of a cat", "light on a photo of a cat shows")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
        {"model_type": "clip", "architectures": ["CLIPModel"]},
    ],
)
def test_a_model_that_is_not_causal_is_an_error(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"is a {config['architectures'][0]}, which does not generate text"):
        Writer(WriterSettings(model=str(tmp_path)))


def test_a_missing_or_unreadable_model_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"the folder has no config\.json"):
        Writer(WriterSettings(model=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(UserError, match=r"language model .* can't be loaded from "):
        Writer(WriterSettings(model=str(tmp_path)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        Writer(WriterSettings(model="nobody/nothing"))
