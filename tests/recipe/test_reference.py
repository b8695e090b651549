"""Reference of recipe keys: descriptions, and the JSON Schema for editors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import Field

from scripts.reference import anchor, pages, recipes
from syncclip.core.settings import Settings, UserError
from syncclip.recipe import reference
from syncclip.recipe.files import SHIPPED
from syncclip.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class _Base(Settings):
    kept: int = 1
    """Kept setting."""
    changed: int = Field(1)
    """Setting of the base."""


class Nearest(_Base):
    changed: int = 2
    """Setting of the
    derived class."""


def errors(recipe: dict[str, Any]) -> list[str]:
    """Schema errors of a recipe file, with their location."""
    validator = jsonschema.Draft202012Validator(reference.schema())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(recipe)]


def leaves(value: Any, path: str = "") -> list[str]:
    """Every key of nested mappings, from the top."""
    if not isinstance(value, dict) or not value:
        return [path]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}".removeprefix("."))]


def test_every_key_is_described() -> None:
    keys = reference.keys()
    assert {key.path: key.meaning for key in keys.values() if not key.meaning.endswith((".", ")"))} == {}
    assert len(keys) > 250
    stored = leaves(json.loads(Recipe().model_dump_json()))
    assert [path for path in stored if path not in keys and path.rpartition(".")[0] not in keys] == []


def test_the_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(reference.schema())


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.yaml")), ids=lambda path: str(path.relative_to(SHIPPED)))
def test_the_schema_accepts_every_shipped_recipe(path: Path) -> None:
    assert errors(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        ({"training": {"epoch": 3}}, "$.training: Additional properties are not allowed ('epoch' was unexpected)"),
        ({"trainning": {}}, "$: Additional properties are not allowed ('trainning' was unexpected)"),
        ({"training": {"epochs": 0}}, "$.training.epochs: 0 is less than the minimum of 1"),
        (
            {"training": {"data": "all"}},
            "$.training.data: 'all' is not one of ['real', 'synthetic', 'both', 'all_real']",
        ),
        ({"study": {"seeds": 3}}, "$.study.seeds: 3 is not of type 'array'"),
    ],
)
def test_errors_of_the_schema_contain_their_location(recipe: dict[str, Any], error: str) -> None:
    assert errors(recipe) == [error]


def test_keys_and_sections_are_explained() -> None:
    (epochs,) = reference.explain("training.epochs")
    assert (epochs.kind, epochs.default) == ("integer ≥ 1", "10")
    assert "`epochs_over`" in epochs.meaning
    paths = [key.path for key in reference.explain("synthesis.filters")]
    assert paths[0] == "synthesis.filters"
    assert "synthesis.filters[clip_score].top" in paths
    assert all(path.startswith("synthesis.filters") for path in paths)
    with pytest.raises(UserError, match="unknown key 'training.epoch'; did you mean 'training.epochs'"):
        reference.explain("training.epoch")


def documented_keys(text: str) -> Iterator[str]:
    """Keys in the code spans of a page, without indices."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    sections = "|".join(Recipe.model_fields)
    for key in re.findall(rf"`((?:{sections})\.[a-z_<>.\[\]]+)(?:[=:][^`]*)?`", text):
        if not key.endswith((".py", ".json", ".yaml", ".parquet")):
            yield re.sub(r"\[[a-z_]*\]", "", key)
    for section, names in re.findall(r"[Ii]n `([a-z_.]+)` (?:are|is) (`[^.;]+)", text):
        yield from (f"{section}.{name}" for name in re.findall(r"`([a-z_]+)`", names))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_keys_in_a_page_exist(page: Path) -> None:
    paths = {re.sub(r"\[[a-z_]*\]", "", path) for path in list(reference.keys())}
    existing = " ".join({path.rsplit(".", depth)[0] for path in paths for depth in range(5)})
    patterns = {
        key: re.sub(r"<[a-z_]+>", "[a-z_]+", re.escape(key)) for key in documented_keys(page.read_text("utf-8"))
    }
    assert [key for key, pattern in patterns.items() if not re.search(rf"(?<!\S){pattern}(?!\S)", existing)] == []


def test_a_description_is_that_of_the_most_derived_class() -> None:
    assert reference.meanings(Nearest) == {"kept": "Kept setting.", "changed": "Setting of the derived class."}


def test_every_setting_has_a_unique_anchor_in_a_table_of_two_columns() -> None:
    page = recipes()
    anchors = re.findall(r'<a id="([^"]+)"></a>', page)
    assert len(anchors) == len(set(anchors))
    assert {anchor(path) for path in list(reference.keys()) if "." in path and ".backbone." not in path} <= set(anchors)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_reference_pages_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == pages()[path], "regenerate it with `python -m scripts.reference`"
