"""The base of all settings classes, a user's mistake as an error, and what pydantic refuses as one sentence."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from syncclip.core.secrets import redacted
from syncclip.core.text import ARTICLE, LONGEST, cut, did_you_mean


class UserError(ValueError):
    """A user's mistake in one sentence: where, what is wrong, and what to do; never longer than a screen, and without
    secrets."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(cut(redacted(sentence), LONGEST))


class RefusalError(ValueError):
    """What a validator of several sections refuses, with the key that is to blame."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason


def check_token(name: str, token: str) -> None:
    """Raise a UserError if a token, given as `name`, does not fit into an HTTP header."""
    if not (token.isascii() and token.isprintable()):
        raise UserError(f"{name}: the token holds characters other than printable ASCII; correct it")


RENAMED = {"benchmark": "dataset"}
"""Keys in files of earlier versions, and their names of today."""

DATASET = Field(validation_alias=AliasChoices("dataset", "benchmark"))
"""Of a field `dataset`, which files of earlier versions may hold under its old name."""


def with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file, perhaps an earlier version's, under the keys of today."""
    return {(RENAMED[key] if RENAMED.get(key, key) not in values else key): value for key, value in values.items()}


def with_first_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values under their keys of the first version: digests are made of these, so that they never change."""
    first = {new: old for old, new in RENAMED.items()}
    return {first.get(key, key): value for key, value in values.items()}


class Settings(BaseModel):
    """Typed settings, defined beside the part that they configure.

    Unknown keys are refused; values are checked once and never change afterwards.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


def added(default: Any, **constraints: Any) -> Any:
    """A field of a later version. It isn't written while it has its default, so that plans, and the digests that name
    sets and runs, stay as they were; with a `default_factory` too, while it is `default`."""
    given = {} if "default_factory" in constraints else {"default": default}
    return Field(exclude_if=lambda value: value == default, **given, **constraints)


def with_one_place(template: str) -> str:
    """The template, if it has one place for the class name.

    Raises:
        ValueError: it has none or several.
    """
    if template.count("{}") + template.count(ARTICLE) != 1:
        raise ValueError(
            f"the template {template!r} must hold {{}} exactly once, where the class name goes, "
            "as in 'a photo of a {}.'; or {a}, for the name with its article"
        )
    return template


MOST_CLASSES = 50_000
"""Of a dataset; ImageNet-21k has 21,841. A prompt learner keeps some 100 kB for each."""

LONGEST_TEXT = 1_000
"""Characters of a class name or a template, far more than a text encoder reads."""

MANY = Field(max_length=MOST_CLASSES, fail_fast=True)
"""Of a list with a value for each class, of which pydantic would keep a complaint about each."""

ShortText = Annotated[str, Field(max_length=LONGEST_TEXT)]
Template = Annotated[ShortText, AfterValidator(with_one_place)]

Position = Literal["end", "middle", "front"]
"""Where a class name stands among learned words."""


def first_complaint(error: ValidationError) -> str:
    """Pydantic's first complaint, with its place."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    text = first["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text (put it in quotes in YAML)",
    "list": "a list, such as [1, 2]",
    "tuple": "a list, such as [1, 2]",
    "dict": "keys with values",
    "model": "a section with keys of its own",
}
LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """(key, reason and remedy) of the first thing wrong, e.g. ("training.epochs", "0 is not allowed; …").

    Unknown keys come first: correcting them may cure the rest.
    """
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    first = details[0]
    cause = first.get("ctx", {}).get("error")
    key, reason = (cause.key, cause.reason) if isinstance(cause, RefusalError) else _sentence(dict(first), model)
    others = len(details) - 1
    return key, reason + (f" (and {others} more)" if others else "")


def _sentence(detail: dict[str, Any], model: type[BaseModel]) -> tuple[str, str]:
    kind, shown, context = detail["type"], cut(repr(detail["input"])), detail.get("ctx", {})
    models, path = _walk(detail["loc"], model)
    if kind == "extra_forbidden":
        known = dict.fromkeys(name for one in models for name in one.model_fields)
        return path, f"no such key; {did_you_mean(str(detail['loc'][-1]), known)}"
    if kind in LIMITS:
        name, words = LIMITS[kind]
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
    for prefix, words in KINDS.items():
        if kind.startswith(f"{prefix}_"):
            return path, f"{shown} is not allowed; it must be {words}"
    return path, f"{shown} is not allowed ({detail['msg']})"


def _walk(loc: Iterable[int | str], model: type[BaseModel]) -> tuple[list[type[BaseModel]], str]:
    """The models that may hold the last place of `loc`, and `loc` as the user writes it, without unions' choices."""
    models, path = [model], ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif fields := [one.model_fields[step] for one in models if step in one.model_fields]:
            models = [found for field in fields for found in _models(field.annotation)]
            path += f".{step}"
        elif chosen := [one for one in models if step in (*_tags(one), one.__name__)]:
            models = chosen
        elif step:
            path += f".{step}"
    return models, path.removeprefix(".")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _models(part)]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("name")
    return typing.get_args(field.annotation) if field else ()
