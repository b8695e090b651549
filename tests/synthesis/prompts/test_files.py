from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.synthesis.plan import Plan, differences, draft, read_plan, write_plan
from syncclip.synthesis.prompts.captions import Captions, WriterSettings
from syncclip.synthesis.prompts.files import read_captions, read_descriptions, with_sentences
from syncclip.synthesis.prompts.settings import PromptSettings
from syncclip.synthesis.settings import SynthesisSettings
from tests.synthesis.prompts import CLASSES

DESCRIBED = {name: [f"one {name}", f"two {name}s"] for name in CLASSES}


def plan_of(prompts: dict[str, Any], images: int = 4) -> Plan:
    settings = SynthesisSettings(
        images_per_class=images, prompts=with_sentences(PromptSettings.model_validate(prompts))
    )
    return draft(settings, dataset="pets", classnames=CLASSES, template="a {}")


def captions(tmp_path: Path, **changes: Any) -> str:
    sentences = {name: (f"{name} at dawn",) for name in CLASSES}
    file = tmp_path / "captions.json"
    file.write_text(Captions(writer=WriterSettings(model="m", **changes), sentences=sentences).model_dump_json())
    return str(file)


@pytest.mark.parametrize("name", ["pets.json", "pets.yaml"])
def test_a_plan_holds_the_sentences_of_a_file_and_redraws_without_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(json.dumps(DESCRIBED))  # JSON is YAML too
    plan = write_plan(plan_of({"strategies": [{"name": "descriptions", "file": str(file)}]}), str(tmp_path / "set"))
    file.unlink()
    stored = read_plan(str(tmp_path / "set"))
    assert stored == plan
    assert [stored.entry(i).prompt for i in (0, 1, 3)] == ["one cat", "one dog", "two cats"]
    assert str(tmp_path) not in stored.model_dump_json()


def test_a_plan_needs_sentences_for_every_class() -> None:
    with pytest.raises(UserError, match="has no sentence for class 'dog' and 1 more"):
        plan_of({"strategies": [{"name": "descriptions", "sentences": {"cat": ["a cat"]}}]})


def test_a_changed_file_is_another_plan(tmp_path: Path) -> None:
    file = tmp_path / "pets.json"
    prompts = {"strategies": [{"name": "template"}, {"name": "descriptions", "file": str(file)}]}
    file.write_text(json.dumps(DESCRIBED))
    before = plan_of(prompts)
    file.write_text(json.dumps({**DESCRIBED, "dog": ["woof"]}))
    assert differences(before, plan_of(prompts)) == [
        "prompts.strategies[1].sentences.dog is ('one dog', 'two dogs') there and ('woof',) here"
    ]


def test_a_plan_knows_who_wrote_its_captions_and_the_files_digest(tmp_path: Path) -> None:
    file = captions(tmp_path)
    strategy = plan_of({"strategies": [{"name": "captions", "file": file}]}).model_dump()["prompts"]["strategies"][0]
    assert strategy["writer"]["model"] == "m" and strategy["sha256"] == read_captions(file).sha256
    assert strategy["file"] is None and strategy["sentences"]["cat"] == ("cat at dawn",)


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ({}, "strategies[0].file: no file is given; write the captions with `syncclip captions RECIPE --out FILE`"),
        ({"file": "/nowhere/c.json"}, "/nowhere/c.json is missing; write the captions with"),
    ],
)
def test_captions_that_are_not_written_yet_are_errors_with_the_command(strategy: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as failure:
        plan_of({"strategies": [{"name": "captions", **strategy}]})
    assert sentence in str(failure.value)


def test_captions_of_another_writer_than_the_recipes_are_errors(tmp_path: Path) -> None:
    file = captions(tmp_path, seed=3)
    with pytest.raises(UserError, match="another writer: seed is 3 there and 0 in the recipe"):
        plan_of({"strategies": [{"name": "captions", "file": file, "writer": {"model": "m"}}]})


def test_strategies_without_weight_are_left_out_and_their_files_not_read() -> None:
    plan = plan_of({"strategies": [{"name": "template"}, {"name": "captions", "file": "/nowhere", "weight": 0}]})
    assert plan == plan_of({"strategies": [{"name": "template"}]})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", '["a cat"]', "no class names with lists; a file of descriptions holds a class name with a list"),
        ("a.yaml", "", "no class names with lists"),
        ("a.json", '{"cat": "a cat"}', "cat: no list of sentences"),
        ("a.yaml", "cat: {a: b}", "cat: no list of sentences"),
        ("a.json", '{"cat": ["a cat", 3]}', "cat: 1: no text"),
        ("a.json", '{"cat": []}', "cat: Tuple should have at least 1 item"),
        ("a.json", '{"cat": ["  "]}', "cat: 0: '' is no sentence"),
        ("a.json", '{"cat": ["a"], "dog": ["b"], "cat": ["c"]}', "'cat' is both entry 1 and entry 3; merge"),
        ("a.yaml", "cat: [a]\ndog: [b]\ncat: [c]\n", "'cat' is in line 1 and in line 3; merge"),
        ("a.json", "{", "a.json: not readable as JSON"),
        ("a.yaml", "cat: [", "a.yaml, line 2: not readable as YAML"),
    ],
)
def test_a_file_of_another_shape_is_reported(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as failure:
        read_descriptions(str(tmp_path / name))
    assert sentence in str(failure.value) and f"{tmp_path / name}" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_class_may_be_called_as_yaml_calls_a_number_or_false(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("no: [a cat]\n7: [a dog]\n")
    assert read_descriptions(str(tmp_path / "a.yaml")) == {"no": ("a cat",), "7": ("a dog",)}


def test_captions_of_another_format_are_reported(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"format": 2, "writer": {"model": "m"}}')
    with pytest.raises(UserError, match="format: .*wrote"):
        read_captions(str(tmp_path / "c.json"))


def test_a_missing_file_is_reported() -> None:
    with pytest.raises(UserError, match=r"cannot read /nowhere/pets\.json"):
        read_descriptions("/nowhere/pets.json")
