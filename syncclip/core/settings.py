"""Base class of all settings, user errors, and one-line messages for pydantic's validation errors."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from syncclip.core.secrets import redacted
from syncclip.core.text import ARTICLE, LONGEST, cut, did_you_mean


class UserError(ValueError):
    """A user error with a one-line message: location, cause and fix. Secrets are masked, and long messages cut."""

    def __init__(self, message: str = "") -> None:
        super().__init__(cut(redacted(message), LONGEST))


class KeyedError(ValueError):
    """A validation error that names its key, for validators that compare several sections."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason


def check_token(name: str, token: str) -> None:
    """Raise a UserError if the token in setting `name` is not valid in an HTTP header."""
    if not (token.isascii() and token.isprintable()):
        raise UserError(f"{name}: the token contains characters other than printable ASCII; correct it")


class Settings(BaseModel):
    """Base class of typed settings, defined beside the component that they configure.

    Unknown keys are errors; values are validated once and immutable.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


def added(default: Any, **constraints: Any) -> Any:
    """Declare a field that is serialised only if it differs from `default`.

    Plans and checksums written without the field stay valid.
    """
    declared = {} if "default_factory" in constraints else {"default": default}
    return Field(exclude_if=lambda value: value == default, **declared, **constraints)


def with_one_placeholder(template: str) -> str:
    """Return the template; raise ValueError unless it has exactly one placeholder for the class name."""
    if template.count("{}") + template.count(ARTICLE) != 1:
        raise ValueError(
            f"the template {template!r} must contain {{}} exactly once, where the class name goes, "
            "as in 'a photo of a {}.'; or {a}, for the name with its article"
        )
    return template


MOST_CLASSES = 50_000
"""Maximum number of classes in a dataset; ImageNet-21k has 21,841. A prompt learner needs about 100 kB per class."""

LONGEST_TEXT = 1_000
"""Maximum length of a class name or template in characters, far beyond the context of any text encoder."""

MANY = Field(max_length=MOST_CLASSES, fail_fast=True)
"""Constraint of a list with one value per class; stops at the first error, since pydantic collects one per value."""

ShortText = Annotated[str, Field(max_length=LONGEST_TEXT)]
Template = Annotated[ShortText, AfterValidator(with_one_placeholder)]

Position = Literal["end", "middle", "front"]
"""Position of a class name among learned words."""


def first_error(error: ValidationError) -> str:
    """Format the first of pydantic's errors as `key: message`."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    text = first["msg"].removeprefix("Value error, ")
    return f"{key}: {text}" if key else text


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text (put it in quotes in YAML)",
    "list": "a list, such as [1, 2]",
    "tuple": "a list, such as [1, 2]",
    "dict": "keys with values",
    "model": "a section with keys of its own",
}
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """Return the key and the message of the most useful error, such as ("training.epochs", "0 is not allowed; …").

    An unknown key comes first, since correcting it may fix the other errors.
    """
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    first = details[0]
    cause = first.get("ctx", {}).get("error")
    key, reason = (cause.key, cause.reason) if isinstance(cause, KeyedError) else _message(dict(first), model)
    others = len(details) - 1
    return key, reason + (f" (and {others} more)" if others else "")


def _message(detail: dict[str, Any], model: type[BaseModel]) -> tuple[str, str]:
    """Return the key of one of pydantic's errors, and a message with a fix."""
    kind, shown, context = detail["type"], cut(repr(detail["input"])), detail.get("ctx", {})
    models, path = _walk(detail["loc"], model)
    if kind == "extra_forbidden":
        keys = dict.fromkeys(name for candidate in models for name in candidate.model_fields)
        return path, f"no such key; {did_you_mean(str(detail['loc'][-1]), keys)}"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return path, f"{shown} is not allowed; it must be {words} {context[name]}"
    if kind == "literal_error":
        return path, f"{shown} is not allowed; it must be {context['expected']}"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{path}.name", f"there is no {cut(context['tag'])!r}; {did_you_mean(str(context['tag']), tags)}"
    if kind == "union_tag_not_found":
        return path, "a 'name' is missing, which selects its kind"
    if kind == "missing":
        return path, "missing; give it a value"
    if kind == "value_error":
        return path, detail["msg"].removeprefix("Value error, ")
    if kind == "too_short":
        return path, f"{shown} is too short; give at least {context['min_length']}"
    if kind in ("too_long", "string_too_long"):
        return path, f"too long; at most {context['max_length']:,} are allowed"
    if kind == "string_pattern_mismatch":
        return path, f"{shown} is not allowed; use letters, digits, '.', '_' and '-' only"
    for prefix, words in _TYPES.items():
        if kind.startswith(f"{prefix}_"):
            return path, f"{shown} is not allowed; it must be {words}"
    return path, f"{shown} is not allowed ({detail['msg']})"


def _walk(loc: Iterable[int | str], model: type[BaseModel]) -> tuple[list[type[BaseModel]], str]:
    """Return the models that may define the last key of `loc`, and `loc` as a recipe key, without union tags."""
    models, path = [model], ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif fields := [model.model_fields[step] for model in models if step in model.model_fields]:
            models = [inner for field in fields for inner in _models(field.annotation)]
            path += f".{step}"
        elif tagged := [model for model in models if step in (*_tags(model), model.__name__)]:
            models = tagged
        elif step:
            path += f".{step}"
    return models, path.removeprefix(".")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("name")
    return typing.get_args(field.annotation) if field else ()
