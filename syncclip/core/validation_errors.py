"""One-line messages for pydantic's validation errors: unknown keys, out-of-range values, wrong types."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from syncclip.core.text import counted, cut, did_you_mean, nearest

Suggest = Callable[[str, Sequence[str]], str]
"""Function of an unknown key and the keys of its section, which returns a suggestion, or "" for no suggestion."""


class KeyedError(ValueError):
    """A validation error for a given key, raised by validators that compare several sections."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason


def first_error(error: ValidationError) -> str:
    """Format the first pydantic error as `key: message`."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    text = first["msg"].removeprefix("Value error, ")
    return f"{key}: {text}" if key else text


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a string (quote it in YAML)",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a section with its own keys",
}
MOST_UNIONS = 10
"""Maximum number of errors that are compared to find those of the same value."""
MUST_BE = "; it must be "
_BRANCH = re.compile(r"int|str|float|bool|(constrained|function|tagged)-.*|.*\[.*\]")
"""Step in the location of a pydantic error that names a member of a union."""
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all settings and sections, without those of list items."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for section in _models(field.annotation, in_lists=False):
            yield from keys_of(section, f"{prefix}{name}.")


def explain(error: ValidationError, model: type[BaseModel], suggest: Suggest | None = None) -> tuple[str, str]:
    """Return the key and message of the most useful error, e.g. ("training.epochs", "0 is not allowed; …").

    Unknown keys take precedence, since correcting them may fix the other errors.

    Args:
        suggest: suggests keys of all sections for an unknown key; by default, only its own section is searched.
    """
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    reasons: dict[str, list[str]] = {}
    for detail in details[:MOST_UNIONS]:
        key, reason = _message(dict(detail), model, suggest)
        reasons.setdefault(key, []).append(reason)
    # If an item of a list is invalid, the list's alternatives, such as a single value, are irrelevant.
    key = next(key for key in reasons if not any(other.startswith((f"{key}.", f"{key}[")) for other in reasons))
    others = len(details) - sum(len(reasons[each]) for each in reasons if key.startswith(each))
    return key, _joined(reasons[key]) + (f" (and {counted(others, 'more error')})" if others else "")


def _joined(reasons: Sequence[str]) -> str:
    """Join the errors of the types that a value may have: `… is not allowed; it must be 'auto', or a whole number`."""
    parts = [reason.partition(MUST_BE) for reason in reasons]
    allowed = list(dict.fromkeys(part[2] for part in parts if part[2]))
    return parts[0][0] + MUST_BE + ", or ".join(allowed) if parts[0][2] else reasons[0]


def _message(detail: dict[str, Any], model: type[BaseModel], suggest: Suggest | None) -> tuple[str, str]:
    """Return the key of a pydantic error, and a message that suggests a fix."""
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, KeyedError):
        return cause.key, cause.reason
    kind, shown, context = detail["type"], cut(repr(detail["input"])), detail.get("ctx", {})
    models, path = _walk(detail["loc"], model)
    if kind == "extra_forbidden":
        keys = dict.fromkeys(name for candidate in models for name in candidate.model_fields)
        section, value, unknown = path.rpartition(".")[0], detail["input"], path
        while isinstance(value, dict) and len(value) == 1:  # an override of a key in an unknown section
            ((name, value),) = value.items()
            unknown += f".{name}"
        near = suggest(unknown, [f"{section}.{key}".removeprefix(".") for key in keys]) if suggest else ""
        return (unknown if near else path), f"no such key; {near or did_you_mean(str(detail['loc'][-1]), keys)}"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return path, f"{shown} is not allowed{MUST_BE}{words} {context[name]}"
    if kind == "literal_error":
        close = get_close_matches(str(detail["input"]), re.findall("'(.*?)'", context["expected"]), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return path, f"{shown} is not allowed{MUST_BE}{context['expected']}{hint}"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{path}.name", f"there is no {cut(context['tag'])!r}; {did_you_mean(str(context['tag']), tags)}"
    if kind == "union_tag_not_found":
        return path, "the 'name' key is missing; set `name` to select the type of this section"
    if kind == "missing":
        return path, "missing; set a value"
    if kind == "value_error":
        return path, detail["msg"].removeprefix("Value error, ")
    if kind == "too_short":
        return path, f"{shown} is too short; specify at least {counted(context['min_length'], 'value')}"
    if kind in ("too_long", "string_too_long"):
        unit = "values" if kind == "too_long" else "characters"
        return path, f"too long; at most {context['max_length']:,} {unit} are allowed"
    if kind == "string_pattern_mismatch":
        return path, f"{shown} is not allowed; use only letters, digits, '.', '_' and '-'"
    for prefix, words in _TYPES.items():
        if kind.startswith(f"{prefix}_"):
            if prefix == "model":
                tag = nearest(str(detail["input"]), [tag for section in models for tag in _tags(section)])
                names = [f"{path}.{name}" for section in models for name in section.model_fields]
                words += f", such as {{name: {tag}}}" if tag else f", such as {names[0]!r}" if names else ""
            elif prefix in ("list", "tuple"):
                words += f", such as [{detail['input']}]" if isinstance(detail["input"], str | int) else ""
            return path, f"{shown} is not allowed{MUST_BE}{words}"
    return path, f"{shown} is not allowed ({detail['msg']})"


def _walk(loc: Iterable[int | str], model: type[BaseModel]) -> tuple[list[type[BaseModel]], str]:
    """Return the pydantic models that may describe the last key of `loc`, and `loc` as a key without union tags."""
    models, path = [model], ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif fields := [model.model_fields[step] for model in models if step in model.model_fields]:
            models = [inner for field in fields for inner in _models(field.annotation)]
            path += f".{step}"
        elif tagged := [model for model in models if step in (*_tags(model), model.__name__)]:
            models = tagged
        elif step and (models or not _BRANCH.fullmatch(step)):
            path += f".{step}"
    return models, path.removeprefix(".")


def _models(annotation: Any, in_lists: bool = True) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if not in_lists and typing.get_origin(annotation) in (list, tuple):
        return []
    return [model for part in typing.get_args(annotation) for model in _models(part, in_lists)]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("name")
    return typing.get_args(field.annotation) if field else ()
