"""Every key of a recipe, from the settings classes: its type, default and meaning, and a JSON Schema for editors."""

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
from syncclip.recipe.recipe import Recipe

EXTENDS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "Another recipe, or several, whose values apply where this one has none; of several the later wins.",
}
"""The one key of a file that is no part of a recipe."""
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
TYPES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
    "object": "keys with values",
}


@dataclass(frozen=True)
class Key:
    """A key of a recipe.

    Attributes:
        path: from the top, such as `synthesis.generator.steps`; in a list `study.configurations[].method`, of one
        kind of entry
            `synthesis.filters[blank].minimum`.
        kind: what its value may be, in words.
        default: as YAML; empty of a section, and of a key without.
        meaning: in words.
    """

    path: str
    kind: str
    default: str
    meaning: str


class _WithMeanings(GenerateJsonSchema):
    """Pydantic's, where each key has its meaning: the text below it in its class.

    Pydantic would read these texts itself (`use_attribute_docstrings`), but whenever a class is made: in every process.
    """

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().model_schema(schema)
        for name, meaning in meanings(schema["cls"]).items():
            if name in found.get("properties", {}):
                found["properties"][name]["description"] = meaning
        return found


@functools.cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the text below it, in a settings class or one that it derives from."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            found |= _texts(one)
    return found


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """Of the fields that a class itself has."""
    place = inspect.getsourcefile(model)
    assert place is not None, model
    body = _parsed(place).body
    for name in model.__qualname__.split("."):
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    found = {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text).replace("\n", " ")
    return found


@functools.cache
def _parsed(place: str) -> ast.Module:
    return ast.parse(Path(place).read_text(encoding="utf-8"))


@functools.cache
def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe's file."""
    found = Recipe.model_json_schema(schema_generator=_WithMeanings)
    found["properties"] = {"extends": EXTENDS, **found["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


@functools.cache
def keys() -> dict[str, Key]:
    """Every key by its path, in the order of the classes."""
    whole = schema()
    return {key.path: key for key in _below("", whole, whole["$defs"])}


def explain(path: str) -> list[Key]:
    """A key, or a section with all that is in it.

    Raises:
        UserError: there is no such key.
    """
    found = [key for key in keys().values() if key.path == path or key.path.startswith((f"{path}.", f"{path}["))]
    if not found:
        raise UserError(f"there is no key {path!r}; {did_you_mean(path, keys())}")
    return found


def _below(path: str, section: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[Key]:
    for name, value in section.get("properties", {}).items():
        place = f"{path}.{name}".removeprefix(".")
        inner = [*_sections(value, sections)]
        plain = len(inner) == 1 and not inner[0][0]
        default = "" if plain or "default" not in value else json.dumps(value["default"], ensure_ascii=False)
        kind = "section" if plain else " or ".join(dict.fromkeys(_kinds(value, sections)))
        yield Key(place, kind, default, value.get("description", ""))
        for mark, one in inner:
            yield from _below(f"{place}{mark}", one, sections)


def _sections(value: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The sections that a value may be or hold: "" or, of a list, "[]" or "[kind]" -> its schema."""
    for one, listed in _choices(value):
        if "$ref" in one:
            section = sections[one["$ref"].rpartition("/")[2]]
            name = section.get("properties", {}).get("name", {})
            kind = name.get("const") or name.get("default") if "const" in name else ""
            yield f"[{kind}]" if kind or listed else "", section


def _choices(value: Mapping[str, Any], listed: bool = False) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """What a value may be, or one of its list; and whether it is in a list."""
    if value.get("type") == "array" and isinstance(value.get("items"), dict):
        yield from _choices(value["items"], True)
    for name in ("anyOf", "oneOf", "allOf"):
        for one in value.get(name, ()):
            yield from _choices(one, listed)
    if "$ref" in value:
        yield value, listed


def _kinds(value: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    """Each thing that a value may be, in words."""
    if choices := [*value.get("anyOf", ()), *value.get("oneOf", ())]:
        for one in choices:
            yield from _kinds(one, sections)
    elif "$ref" in value:
        yield "section"
    elif "enum" in value or "const" in value:
        yield " or ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    elif value.get("type") == "array":
        items = value["items"] if isinstance(value.get("items"), dict) else (value.get("prefixItems") or [{}])[0]
        yield f"list of {' or '.join(dict.fromkeys(_kinds(items, sections)))}"
    else:
        bounds = [f"{words} {value[name]:g}" for name, words in BOUNDS.items() if name in value]
        yield " ".join([TYPES.get(value.get("type", ""), "any value"), *filter(None, [" and ".join(bounds)])])
