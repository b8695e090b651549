"""Overrides of recipe values, `section.key=value`, parsed by the type of the key."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from syncclip.core.formats import check_yaml, readable
from syncclip.core.secrets import remember_arguments
from syncclip.core.settings import UserError
from syncclip.core.text import cut
from syncclip.core.trust import names_in, trust
from syncclip.recipe.files import plain

COMMAND_LINE = "command line"

_CONFIGURATION_VALUES = re.compile(r"(study\.configurations\.\d+\.(overrides|search_space))\.(.+)")
"""Keys in a configuration's `overrides` or `search_space`; the keys of these mappings contain dots."""


def split_overrides(overrides: Sequence[str], model: type[BaseModel]) -> dict[str, Any]:
    """Parse "section.key=value" into {"section.key": value} by the key's type in `model`; trust code named in values.

    The value of a text key is the text itself, or None for `null` if allowed; all other values are YAML. If a key
    accepts both text and another type, such as a list of paths, a value that is YAML of the other type is parsed as
    YAML.
    """
    remember_arguments(overrides)
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise UserError(
                f"{COMMAND_LINE}: invalid override {cut(override)!r}; expected section.key=value without spaces"
            )
        values[key] = _parsed(key, text, types_of(key, model))
    trust(*names_in(values))
    return values


def as_override(key: str, value: Any, model: type[BaseModel]) -> str:
    """Return the override that `split_overrides` parses into this key and JSON value."""
    return f"{key}={value if isinstance(value, str) and str in types_of(key, model) else json.dumps(value)}"


def types_of(key: str, model: type[BaseModel]) -> set[Any]:
    """Return the JSON types (or Any) that a dotted key accepts; `str` for an unknown key."""
    if match := _CONFIGURATION_VALUES.fullmatch(key):
        return types_of(match[3], model) if match[2] == "overrides" else {list}
    types: list[Any] = [model]
    for step in key.split("."):
        types = [option for kind in types for inner in _below(kind, step) for option in _alternatives(inner)]
    json_types = set()
    for kind in types:
        origin = typing.get_origin(kind) or kind
        if isinstance(origin, type) and issubclass(origin, BaseModel):
            origin = dict
        json_types.add(list if origin is tuple else origin)
    return json_types or {str}


def _below(kind: Any, step: str) -> list[Any]:
    """Return the type annotations of the values at a key or list index of this type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind.model_fields[step].annotation] if step in kind.model_fields else []
    if kind is Any:
        return [Any]
    inner = [argument for argument in typing.get_args(kind) if argument is not Ellipsis]
    return inner[1:] if typing.get_origin(kind) is dict else inner


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the member types of a union, or the types of literals, without constraints."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        yield from _alternatives(inner[0])
    elif origin in (typing.Union, types.UnionType):
        for option in inner:
            yield from _alternatives(option)
    elif origin is Literal:
        yield from map(type, inner)
    else:
        yield annotation


def _parsed(key: str, text: str, kinds: set[Any]) -> Any:
    if kinds <= {str, type(None)}:
        return None if text == "null" and str in kinds and len(kinds) > 1 else text
    try:
        with readable(key):
            check_yaml(text)
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=True)["value"]
            value = plain(value, key)
    except (UserError, OmegaConfBaseException) as error:
        if str in kinds:
            return text
        raise UserError(f"{COMMAND_LINE}: {key}: {cut(text)!r} is not valid YAML; quote the value") from error
    other = type(value) in kinds - {str} or (type(value) is int and float in kinds)
    return value if other or str not in kinds else text


def set_value(values: dict[str, Any], key: str, value: Any, origin: str) -> None:
    """Set a dotted key in nested plain values; numbers in the key are list indices, and errors contain `origin`."""
    match = _CONFIGURATION_VALUES.fullmatch(key)
    *path, last = [*match[1].split("."), match[3]] if match else key.split(".")
    node: Any = values
    for step in path:
        if isinstance(node, list):
            node = node[_position(node, step, key, origin)]
        else:
            if node.get(step) is None:
                node[step] = {}
            node = node[step]
        if not isinstance(node, dict | list):
            raise UserError(f"{origin}: {key}: {step!r} is a single value, not a section")
    node[_position(node, last, key, origin) if isinstance(node, list) else last] = value


def _position(items: list[Any], step: str, key: str, origin: str) -> int:
    if not step.isdigit() or int(step) >= len(items):
        raise UserError(f"{origin}: {key}: {step!r} is not an index from 0 to {len(items) - 1}")
    return int(step)
