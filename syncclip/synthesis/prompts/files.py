"""Files of descriptions and captions, whose sentences a plan contains."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from syncclip import storage
from syncclip.core.formats import check_yaml, parse_json, readable
from syncclip.core.settings import UserError
from syncclip.synthesis.prompts.captions import Captions, Sentences, WriterSettings
from syncclip.synthesis.prompts.settings import PromptSettings
from syncclip.synthesis.prompts.strategies import CaptionSettings, DescriptionSettings, StrategySettings

MAX_YAML_SENTENCES = 1_000_000
"""Limit for YAML files; JSON may contain more."""

SHAPE = "a class name with a list of sentences for each class, as in {cat: [a cat in the sun, a cat on a sofa]}"


def with_sentences(settings: PromptSettings) -> PromptSettings:
    """The settings with sentences in place of their files, and without strategies of weight 0.

    Raises:
        UserError: a file is missing, has another structure, or is by another writer than the recipe's.
    """
    strategies = settings.strategies
    read = (_with_sentences(strategy, number) for number, strategy in enumerate(strategies) if strategy.weight)
    return settings.model_copy(update={"strategies": tuple(read)})


def read_descriptions(url: str) -> dict[str, Sequence[str]]:
    """Class name -> sentences of a JSON or YAML file.

    Raises:
        UserError: the file is missing or has another structure.
    """
    sentences: dict[str, Sequence[str]] = _read(url, dict[str, Sentences], f"a file of descriptions holds {SHAPE}")
    return sentences


def read_captions(url: str) -> Captions:
    """The file of captions that `syncclip captions` wrote.

    Raises:
        UserError: the file is missing or has another structure.
    """
    hint = "a file of captions is one that `syncclip captions RECIPE --out FILE` wrote"
    captions: Captions = _read(url, Captions, hint)
    return captions


def _read(url: str, kind: Any, hint: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(_parsed(url))
    except ValidationError as error:
        raise UserError(f"{url}: {_reason(error)}; {hint}") from error


def check_writer(captions: Captions, writer: WriterSettings, url: str) -> None:
    """Compare the writer of a file of captions with the recipe's.

    Raises:
        UserError: they differ.
    """
    there, here = captions.writer.model_dump(), writer.model_dump()
    for key, value in here.items():
        if there[key] != value:
            raise UserError(
                f"{url} holds captions of another writer: {key} is {there[key]!r} there and {value!r} in the recipe; "
                "write into another file, or correct the recipe"
            )


def _with_sentences(strategy: StrategySettings, number: int) -> StrategySettings:
    if isinstance(strategy, CaptionSettings):
        if strategy.file is None or not storage.exists(strategy.file):
            missing = f"{strategy.file} is missing" if strategy.file else "no file is given"
            raise UserError(
                f"synthesis.prompts.strategies[{number}].file: {missing}; write the captions with "
                "`syncclip captions RECIPE --out FILE`, and set it to that file"
            )
        captions = read_captions(strategy.file)
        if strategy.writer is not None:
            check_writer(captions, strategy.writer, strategy.file)
        update = {"writer": captions.writer, "sentences": captions.sentences, "sha256": captions.sha256}
        return strategy.model_copy(update={"file": None, **update})
    if isinstance(strategy, DescriptionSettings) and strategy.file is not None:
        return strategy.model_copy(update={"file": None, "sentences": read_descriptions(strategy.file)})
    return strategy


def _parsed(url: str) -> Any:
    """The value of a JSON or YAML file without repeated keys."""
    data = storage.read_bytes(url)
    try:
        if url.endswith(".json"):
            return parse_json(data, url, object, each=_unique)
        with readable(url):
            check_yaml(data, MAX_YAML_SENTENCES)
            return yaml.load(data, _Loader)
    except _RepeatedKeyError as error:
        raise UserError(f"{url}: {error}; merge their sentences, or correct one of the names") from error


class _RepeatedKeyError(Exception):
    """A key occurs twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for number, (key, value) in enumerate(pairs, 1):
        if key in values:
            raise _RepeatedKeyError(f"{key!r} is both entry {[*values].index(key) + 1} and entry {number}")
        values[key] = value
    return values


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]  # in C where available
    """Reads all scalars as text, even a class named `no`, and rejects repeated keys, which YAML allows."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if lines.setdefault(str(key.value), line) != line:
                raise _RepeatedKeyError(f"{key.value!r} is in line {lines[key.value]} and in line {line}")
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def _reason(error: ValidationError) -> str:
    """The first error of pydantic, with its location."""
    first = error.errors()[0]
    location = ": ".join(str(part) for part in first["loc"])
    kinds = {"tuple_type": "no list of sentences", "string_type": "no text", "dict_type": "no class names with lists"}
    text = kinds.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{location}: {text}" if location else text
