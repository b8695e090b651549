from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.plan import Plan, differences, draft, read_plan, write_plan
from syncclip.synthesis.prompts.captions import Captions, WriterSettings
from syncclip.synthesis.prompts.files import read_captions, read_descriptions, with_sentences
from syncclip.synthesis.prompts.settings import PromptSettings, prompt_of
from syncclip.synthesis.settings import SynthesisSettings
from tests.synthesis.prompts import CLASSES

DESCRIPTIONS = {name: [f"one {name}", f"two {name}s"] for name in CLASSES}
DOCS = Path(__file__).parents[3] / "docs" / "prompts-and-captions.md"


def plan_of(*strategies: dict[str, Any]) -> Plan:
    prompts = with_sentences(PromptSettings.model_validate({"strategies": strategies}))
    settings = SynthesisSettings(images_per_class=4, prompts=prompts)
    return draft(settings, dataset="pets", classnames=CLASSES, template="a {}")


def captions(tmp_path: Path, **settings: Any) -> str:
    sentences = {name: (f"{name} at dawn",) for name in CLASSES}
    file = tmp_path / "captions.json"
    file.write_text(Captions(writer=WriterSettings(model="m", **settings), sentences=sentences).model_dump_json())
    return str(file)


def test_the_recipe_of_the_documentation_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (text,) = (block for block in blocks if "strategies:" in block)
    (tmp_path / "birds.yaml").write_text(text)
    prompts = Recipe.load(str(tmp_path / "birds.yaml")).synthesis.prompts
    assert prompts.labels == ("template", "combinations", "descriptions", "captions")
    assert prompt_of(prompts, "", "crane", 0) == "a crane, the bird, at a lake"


@pytest.mark.parametrize("name", ["pets.json", "pets.yaml"])
def test_a_plan_contains_the_sentences_of_a_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(json.dumps(DESCRIPTIONS))  # JSON is valid YAML
    plan = write_plan(plan_of({"name": "descriptions", "file": str(file)}), str(tmp_path / "set"))
    file.unlink()
    stored = read_plan(str(tmp_path / "set"))
    assert stored == plan
    assert [stored.entry(i).prompt for i in (0, 1, 3)] == ["one cat", "one dog", "two cats"]
    assert str(tmp_path) not in stored.model_dump_json()


def test_a_changed_file_changes_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "pets.json"
    strategies = {"name": "template"}, {"name": "descriptions", "file": str(file)}
    file.write_text(json.dumps(DESCRIPTIONS))
    before = plan_of(*strategies)
    file.write_text(json.dumps({**DESCRIPTIONS, "dog": ["woof"]}))
    assert differences(before, plan_of(*strategies)) == [
        "prompts.strategies[1].sentences.dog: ('one dog', 'two dogs') -> ('woof',)"
    ]


def test_a_plan_contains_writer_and_checksum_of_captions(tmp_path: Path) -> None:
    file = captions(tmp_path)
    strategy = plan_of({"name": "captions", "file": file}).model_dump()["prompts"]["strategies"][0]
    assert strategy["writer"]["model"] == "m" and strategy["sha256"] == read_captions(file).sha256
    assert strategy["file"] is None and strategy["sentences"]["cat"] == ("cat at dawn",)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({}, r"strategies\[0\].file: not set; .* `syncclip captions RECIPE --out FILE`"),
        ({"file": "/nowhere/c.json"}, "/nowhere/c.json is missing; .* `syncclip captions"),
        ({"file": "captions.json", "writer": {"model": "m"}}, "different settings .seed: 3, in the recipe: 0"),
    ],
)
def test_missing_and_outdated_captions_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: dict[str, Any], message: str
) -> None:
    captions(tmp_path, seed=3)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        plan_of({"name": "captions", **strategy})


def test_strategies_of_weight_0_are_not_read() -> None:
    plan = plan_of({"name": "template"}, {"name": "captions", "file": "/nowhere", "weight": 0})
    assert plan == plan_of({"name": "template"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '["a cat"]', "expected a mapping; use a list of sentences per class"),
        ("a.yaml", "", "expected a mapping"),
        ("a.json", '{"cat": "a cat"}', "cat: expected a list of sentences"),
        ("a.yaml", "cat: {a: b}", "cat: expected a list of sentences"),
        ("a.json", '{"cat": ["a cat", 3]}', "cat: 1: expected text"),
        ("a.json", '{"cat": []}', "cat: Tuple should have at least 1 item"),
        ("a.json", '{"cat": ["  "]}', "cat: 0: '' must be one line"),
        ("a.json", '{"cat": ["a"], "dog": ["b"], "cat": ["c"]}', "'cat' occurs twice, as entries 1 and 3; merge"),
        ("a.yaml", "cat: [a]\ndog: [b]\ncat: [c]\n", "'cat' occurs twice, on lines 1 and 3; merge"),
        ("a.json", "{", "a.json: not readable as JSON"),
        ("a.yaml", "cat: [", "a.yaml, line 2: not readable as YAML"),
    ],
)
def test_an_invalid_file_is_reported(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as failure:
        read_descriptions(str(tmp_path / name))
    assert message in str(failure.value) and f"{tmp_path / name}" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_yaml_scalars_are_class_names(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("no: [a cat]\n7: [a dog]\n")
    assert read_descriptions(str(tmp_path / "a.yaml")) == {"no": ("a cat",), "7": ("a dog",)}


def test_another_format_and_a_missing_file_are_reported(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"format": 2, "writer": {"model": "m"}}')
    with pytest.raises(UserError, match="format: .*written by"):
        read_captions(str(tmp_path / "c.json"))
    with pytest.raises(UserError, match=r"cannot read /nowhere/pets\.json"):
        read_descriptions("/nowhere/pets.json")
