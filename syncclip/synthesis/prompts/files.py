"""Descriptions and captions from their files into the settings, so that a plan holds all that it needs."""

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

MOST_SENTENCES = 1_000_000
"""Of a YAML file; JSON may hold more."""

SHAPE = "a class name with a list of sentences for each class, as in {cat: [a cat in the sun, a cat on a sofa]}"


def with_sentences(settings: PromptSettings) -> PromptSettings:
    """The settings with the sentences in place of the files that hold them, and without strategies of no weight.

    Raises:
        UserError: a file is missing, of another shape, or by another writer than the recipe's.
    """
    read = (_with_sentences(strategy, place) for place, strategy in enumerate(settings.strategies) if strategy.weight)
    return settings.model_copy(update={"strategies": tuple(read)})


def read_descriptions(url: str) -> dict[str, Sequence[str]]:
    """Class name -> sentences of a JSON or YAML file.

    Raises:
        UserError: there is no such file, or it has another shape; the message names the place.
    """
    found: dict[str, Sequence[str]] = _read(url, dict[str, Sentences], f"a file of descriptions holds {SHAPE}")
    return found


def read_captions(url: str) -> Captions:
    """What `syncclip captions` wrote.

    Raises:
        UserError: there is no such file, or it has another shape.
    """
    found: Captions = _read(url, Captions, "a file of captions is one that `syncclip captions RECIPE --out FILE` wrote")
    return found


def _read(url: str, kind: Any, shape: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(_parsed(url))
    except ValidationError as error:
        raise UserError(f"{url}: {_reason(error)}; {shape}") from error


def check_writer(found: Captions, writer: WriterSettings, url: str) -> None:
    """Hold a file's writer against another.

    Raises:
        UserError: they differ; the message says where.
    """
    there, here = found.writer.model_dump(), writer.model_dump()
    for key, value in here.items():
        if there[key] != value:
            raise UserError(
                f"{url} holds captions of another writer: {key} is {there[key]!r} there and {value!r} in the recipe; "
                "write them again into another file, or correct the recipe"
            )


def _with_sentences(strategy: StrategySettings, place: int) -> StrategySettings:
    if isinstance(strategy, CaptionSettings):
        if strategy.file is None or not storage.exists(strategy.file):
            missing = f"{strategy.file} is not there" if strategy.file else "no file is named"
            raise UserError(
                f"synthesis.prompts.strategies[{place}].file: {missing}; write the captions with "
                "`syncclip captions RECIPE --out FILE`, and name that file"
            )
        found = read_captions(strategy.file)
        if strategy.writer is not None:
            check_writer(found, strategy.writer, strategy.file)
        update = {"writer": found.writer, "sentences": found.sentences, "sha256": found.sha256}
        return strategy.model_copy(update={"file": None, **update})
    if isinstance(strategy, DescriptionSettings) and strategy.file is not None:
        return strategy.model_copy(update={"file": None, "sentences": read_descriptions(strategy.file)})
    return strategy


def _parsed(url: str) -> Any:
    """The value in a JSON or YAML file, a class given twice refused."""
    data = storage.read_bytes(url)
    try:
        if url.endswith(".json"):
            return parse_json(data, url, object, each=_once)
        with readable(url):
            check_yaml(data, MOST_SENTENCES)
            return yaml.load(data, _Loader)
    except _TwiceError as error:
        raise UserError(f"{url}: {error}; put their sentences together, or correct one of the names") from error


class _TwiceError(Exception):
    """A key that is given twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, (key, value) in enumerate(pairs, 1):
        if key in found:
            raise _TwiceError(f"{key!r} is both entry {[*found].index(key) + 1} and entry {place}")
        found[key] = value
    return found


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]  # in C where it can be
    """All is text, also a class called `no`; a key given twice is an error, which it isn't in YAML."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if lines.setdefault(str(key.value), line) != line:
                raise _TwiceError(f"{key.value!r} is in line {lines[key.value]} and in line {line}")
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found


def _reason(error: ValidationError) -> str:
    """The first complaint of pydantic, with its place."""
    first = error.errors()[0]
    place = ": ".join(str(part) for part in first["loc"])
    kinds = {"tuple_type": "no list of sentences", "string_type": "no text", "dict_type": "no class names with lists"}
    text = kinds.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{place}: {text}" if place else text
