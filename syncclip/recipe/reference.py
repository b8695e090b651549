"""Reference of recipe keys (type, default, description) and JSON Schema for editors, from the settings classes."""

from __future__ import annotations

import ast
import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from syncclip.core.settings import UserError
from syncclip.core.text import did_you_mean
from syncclip.recipe.recipe import Recipe, suggest

EXTENDS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "Recipe, or list of recipes, to inherit from; later recipes take precedence.",
}
"""Schema of `extends`, the only recipe key that is not a field of `Recipe`."""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
"""Symbols of JSON Schema constraints."""


@dataclass(frozen=True)
class Key:
    """A recipe key.

    Attributes:
        path: dotted key, such as `synthesis.generator.steps`, `study.configurations[].method` for list items, or
            `synthesis.filters[blank].minimum` for list items of one type.
        kind: type of the value.
        default: default value as YAML; empty for a section or a required key.
        meaning: description.
    """

    path: str
    kind: str
    default: str
    meaning: str


class _WithMeanings(GenerateJsonSchema):
    """JSON Schema with field docstrings as descriptions.

    Pydantic's own `use_attribute_docstrings` would parse source files in every process.
    """

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        generated = super().model_schema(schema)
        for name, meaning in meanings(schema["cls"]).items():
            if name in generated.get("properties", {}):
                generated["properties"][name]["description"] = meaning
        return generated


@functools.cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return docstrings by field name for a settings class and its base classes."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            texts |= _docstrings(base)
    return texts


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return docstrings by field name for a settings class, without inherited fields."""
    file = inspect.getsourcefile(model)
    assert file is not None, model
    body = _parsed(file).body
    for name in model.__qualname__.split("."):
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    texts = {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = inspect.cleandoc(text).replace("\n", " ")
    return texts


@functools.cache
def _parsed(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding="utf-8"))


@functools.cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a recipe file."""
    generated = Recipe.model_json_schema(schema_generator=_WithMeanings)
    generated["properties"] = {"extends": EXTENDS, **generated["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **generated}


@functools.cache
def keys() -> dict[str, Key]:
    """Return all keys by path, in declaration order."""
    root = schema()
    return {key.path: key for key in _below("", root, root["$defs"])}


def explain(path: str) -> list[Key]:
    """Return a key, a section with all its keys, or all keys whose last part is `path`, such as `learning_rate`.

    Raises:
        UserError: the key is unknown.
    """
    every = keys().values()
    matches = [key for key in every if key.path == path or key.path.startswith((f"{path}.", f"{path}["))]
    matches = matches or [key for key in every if key.path.endswith(f".{path}")]
    if not matches:
        raise UserError(f"unknown key {path!r}; {suggest(path) or did_you_mean(path, keys())}")
    return matches


def _below(path: str, section: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[Key]:
    for name, value in section.get("properties", {}).items():
        key = f"{path}.{name}".removeprefix(".")
        inner = [*_sections(value, sections)]
        plain = len(inner) == 1 and not inner[0][0]
        default = "" if plain or "default" not in value else json.dumps(value["default"], ensure_ascii=False)
        kind = "section" if plain else " or ".join(dict.fromkeys(_kinds(value, sections)))
        yield Key(key, kind, default, value.get("description", ""))
        for suffix, subsection in inner:
            yield from _below(f"{key}{suffix}", subsection, sections)


def _sections(value: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the sections of a value, each with a path suffix: "", or "[]" or "[type]" for list items."""
    for choice, listed in _choices(value):
        if "$ref" in choice:
            section = sections[choice["$ref"].rpartition("/")[2]]
            name = section.get("properties", {}).get("name", {})
            kind = name.get("const") or name.get("default") if "const" in name else ""
            yield f"[{kind}]" if kind or listed else "", section


def _choices(value: Mapping[str, Any], listed: bool = False) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Yield the alternative schemas of a value or list item, each with a flag that is True for list items."""
    if value.get("type") == "array" and isinstance(value.get("items"), dict):
        yield from _choices(value["items"], True)
    for name in ("anyOf", "oneOf", "allOf"):
        for choice in value.get(name, ()):
            yield from _choices(choice, listed)
    if "$ref" in value:
        yield value, listed


def _kinds(value: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the types that a value may have."""
    if choices := [*value.get("anyOf", ()), *value.get("oneOf", ())]:
        for choice in choices:
            yield from _kinds(choice, sections)
    elif "$ref" in value:
        yield "section"
    elif "enum" in value or "const" in value:
        yield " or ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    elif value.get("type") == "array":
        items = value["items"] if isinstance(value.get("items"), dict) else (value.get("prefixItems") or [{}])[0]
        yield f"list of {' or '.join(dict.fromkeys(_kinds(items, sections)))}"
    else:
        bounds = [f"{symbol} {value[name]:g}" for name, symbol in BOUNDS.items() if name in value]
        name = str(value.get("type", "any value")).replace("object", "mapping")
        yield f"{name} {' and '.join(bounds)}".rstrip()
