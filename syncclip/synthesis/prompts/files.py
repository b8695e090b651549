"""Description and caption files, whose sentences become part of a plan."""

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
"""Maximum number of values in a YAML file; JSON files may contain more."""


def with_sentences(settings: PromptSettings) -> PromptSettings:
    """Replace each strategy's file with the file's sentences, and drop strategies with weight 0."""
    strategies = settings.strategies
    read = (_with_sentences(strategy, number) for number, strategy in enumerate(strategies) if strategy.weight)
    return settings.model_copy(update={"strategies": tuple(read)})


def read_descriptions(url: str) -> dict[str, Sequence[str]]:
    """Read the sentences of each class from a JSON or YAML file; raise a UserError if it is missing or invalid."""
    hint = "use a list of sentences per class, as in {cat: [a cat in the sun, a cat on a sofa]}"
    sentences: dict[str, Sequence[str]] = _read(url, dict[str, Sentences], hint)
    return sentences


def read_captions(url: str) -> Captions:
    """Read a caption file; raise a UserError if it is missing or invalid."""
    captions: Captions = _read(url, Captions, "use a file written by `syncclip captions RECIPE --out FILE`")
    return captions


def _read(url: str, annotation: Any, hint: str) -> Any:
    try:
        return TypeAdapter(annotation).validate_python(_parsed(url))
    except ValidationError as error:
        raise UserError(f"{url}: {_reason(error)}; {hint}") from error


def check_writer(captions: Captions, writer: WriterSettings, url: str) -> None:
    """Raise a UserError unless a caption file was written with the recipe's settings."""
    for key, value in writer.model_dump().items():
        if (other := captions.writer.model_dump()[key]) != value:
            raise UserError(
                f"{url} was written with different settings ({key}: {other!r}, in the recipe: {value!r}); use a "
                "different file, or correct the recipe"
            )


def _with_sentences(strategy: StrategySettings, number: int) -> StrategySettings:
    if isinstance(strategy, CaptionSettings):
        if strategy.file is None or not storage.exists(strategy.file):
            missing = f"{strategy.file} is missing" if strategy.file else "not set"
            raise UserError(
                f"synthesis.prompts.strategies[{number}].file: {missing}; write a caption file with "
                "`syncclip captions RECIPE --out FILE`, and set file to its path"
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
    """Parse a JSON or YAML file; repeated keys raise a UserError."""
    data = storage.read_bytes(url)
    try:
        if url.endswith(".json"):
            return parse_json(data, url, object, each=_unique)
        with readable(url):
            check_yaml(data, MAX_YAML_SENTENCES)
            return yaml.load(data, _Loader)
    except _RepeatedKeyError as error:
        raise UserError(f"{url}: {error}; merge the two entries, or rename one") from error


class _RepeatedKeyError(Exception):
    """Raised if a mapping contains a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for number, (key, value) in enumerate(pairs, 1):
        if key in values:
            raise _RepeatedKeyError(f"{key!r} occurs twice, as entries {[*values].index(key) + 1} and {number}")
        values[key] = value
    return values


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]  # in C where available
    """YAML loader that reads all scalars as text, such as the class name `no`, and rejects repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if lines.setdefault(str(key.value), line) != line:
                raise _RepeatedKeyError(f"{key.value!r} occurs twice, on lines {lines[key.value]} and {line}")
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def _reason(error: ValidationError) -> str:
    """Return pydantic's first error, with its location."""
    first = error.errors()[0]
    location = ": ".join(str(part) for part in first["loc"])
    expected = {"tuple_type": "a list of sentences", "string_type": "text", "dict_type": "a mapping"}.get(first["type"])
    text = f"expected {expected}" if expected else first["msg"].removeprefix("Value error, ")
    return f"{location}: {text}" if location else text
