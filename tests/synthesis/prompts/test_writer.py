from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from syncclip.core.settings import UserError
from syncclip.synthesis.prompts.captions import WriterSettings
from syncclip.synthesis.prompts.writer import Writer
from tests.synthesis.prompts import CLASSES
from tests.worlds.language import asked


def test_captions_differ_hold_the_class_name_and_are_the_same_again(model: str) -> None:
    writer = Writer(asked(model), "cpu")
    written = {name: writer.write(name) for name in CLASSES}
    assert all(len(set(found)) == 3 for found in written.values())
    assert all(name in caption for name, found in written.items() for caption in found)
    again = Writer(asked(model), "cpu")
    assert {name: again.write(name) for name in reversed(CLASSES)} == written, "whatever was written before"
    assert Writer(asked(model, seed=1), "cpu").write("cat") != written["cat"]


def test_a_chat_model_is_asked_as_its_template_wants(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(asked(model), "cpu")
    seen: list[str] = []
    generate = writer.model.generate

    def heard(input_ids: Tensor, **arguments: Any) -> Any:
        seen.append(writer.tokenizer.decode(input_ids[0]))
        return generate(input_ids=input_ids, **arguments)

    monkeypatch.setattr(writer.model, "generate", heard)
    writer.write("cat")
    writer.tokenizer.chat_template = "{% for m in messages %}light on {{ m.content }}{% endfor %} shows"
    writer.write("cat")
    assert (seen[0], seen[-1]) == ("a photo of a cat", "light on a photo of a cat shows")


def test_a_model_that_has_nothing_to_say_is_reported(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(asked(model), "cpu")
    monkeypatch.setattr(writer, "_outputs", lambda classname, number: ["", " . "])
    with pytest.raises(UserError, match="wrote nothing for class 'cat'; try another model"):
        writer.write("cat")


@pytest.mark.parametrize("kind", ["bert", "t5", "clip"])
def test_a_model_that_is_not_causal_is_an_error_before_its_weights_are_read(kind: str, tmp_path: Path) -> None:
    configs: dict[str, dict[str, Any]] = {
        "bert": {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        "t5": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
        "clip": {"model_type": "clip", "architectures": ["CLIPModel"]},
    }
    (tmp_path / "config.json").write_text(json.dumps(configs[kind]))
    with pytest.raises(UserError) as failure:
        Writer(WriterSettings(model=str(tmp_path)))
    assert f"is a {configs[kind]['architectures'][0]}, which does not generate text" in str(failure.value)


def test_what_is_no_language_model_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"the folder has no config\.json"):
        Writer(WriterSettings(model=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(UserError, match=r"language model .* can't be loaded from "):
        Writer(WriterSettings(model=str(tmp_path)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        Writer(WriterSettings(model="nobody/nothing"))
