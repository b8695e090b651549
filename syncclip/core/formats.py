"""JSON and YAML parsers for untrusted files, with size and depth limits and one-line errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import yaml

from syncclip.core.settings import UserError

DEEPEST = 100
"""Maximum nesting depth. Valid files have at most ten levels; a thousand levels could overflow the stack."""

MOST_NODES = 100_000
"""Maximum number of values in a YAML document with all aliases expanded; OmegaConf takes 80 µs per value."""

NODE_BYTES = 100
"""Maximum average size of a value in a YAML document, in bytes."""

MOST_JSON = 128 << 20
"""Maximum size of a JSON document in bytes; the parsed values take up to 20 times as much memory."""

T = TypeVar("T")


def parse_json(
    data: str | bytes,
    source: str,
    kind: type[T],
    remedy: str = "download or create it again",
    each: Callable[..., Any] | None = None,
) -> T:
    """Parse a JSON document.

    Args:
        source: name of the file or other source, for error messages.
        kind: required type of the top-level value.
        remedy: fix to suggest in error messages.
        each: function that converts the (key, value) pairs of each object; `dict` by default.

    Raises:
        UserError: the document is not valid JSON, is too large or too deeply nested, or has a different top-level type.
    """
    with readable(source, "JSON", remedy):
        check_size(data, MOST_JSON)
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        value = json.loads(text, object_pairs_hook=each)
        if text.count("[") + text.count("{") > DEEPEST:  # otherwise it cannot be too deep
            _check_depth([value])
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # JSON accepts escaped unpaired surrogates
    if not isinstance(value, kind):
        raise UserError(f"{source}: expected {'an object' if kind is dict else 'a list'}; {remedy}")
    return value


def check_size(data: str | bytes, most: int) -> None:
    """Raise a ValueError if a document exceeds `most` bytes, since the parsed values take up many times more memory."""
    if len(data) > most:
        raise ValueError(f"{len(data):,} bytes exceed the maximum of {most:,}")


def parse_yaml(text: str | bytes, source: str, remedy: str = "correct it") -> Any:
    """Parse a YAML document with OmegaConf's rules: `1e-3` is a number, and a date is a string.

    Args:
        source, remedy: see `parse_json`.

    Raises:
        UserError: the document is not valid YAML, exceeds the limits of `check_yaml`, or contains a duplicate key.
    """
    with readable(source, remedy=remedy):
        check_yaml(text)
        return yaml.load(text, _Loader)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C if available
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG and key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"found duplicate key {key.value}", problem_mark=key.start_mark)
            keys.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [
        resolver
        for resolver in resolvers
        if resolver[0] not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*(e[-+]?\d+)?|\d[\d_]*e[-+]?\d+|\.\d[\d_]*(e[-+]\d+)?|\.inf)$|\.nan$", re.IGNORECASE
    ),
    list("-+0123456789."),
)


def check_yaml(text: str | bytes, nodes: int = MOST_NODES) -> yaml.Node | None:
    """Check the size of a YAML document with all aliases expanded; return the root node, or None for an empty document.

    Args:
        nodes: maximum number of values; the maximum size in bytes is `NODE_BYTES * nodes`.

    Raises:
        yaml.YAMLError, ValueError: the document is too large or is not valid YAML; see `readable`.
    """
    check_size(text, NODE_BYTES * nodes)
    root: yaml.Node | None = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    level, count = [] if root is None else [root], 0
    for _ in range(DEEPEST):
        count += len(level)
        if not level or count > nodes:
            break
        outer, level = level, []
        for node in outer:
            if isinstance(node, yaml.MappingNode):
                level += chain.from_iterable(node.value)
            elif isinstance(node, yaml.SequenceNode):
                level += node.value
            if len(level) > nodes:
                break
    if level:
        raise yaml.MarkedYAMLError(
            problem="the document is too long or nested too deeply", problem_mark=level[0].start_mark
        )
    return root


@contextmanager
def readable(source: str, form: str = "YAML", remedy: str = "correct it") -> Iterator[None]:
    """Convert JSON and YAML parser errors into one-line user errors.

    Args:
        source, remedy: see `parse_json`.
        form: name of the format, for error messages.
    """
    try:
        yield
    except UserError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, problem = f", line {mark.line + 1}" if mark else "", getattr(error, "problem", None) or error
        raise UserError(f"{source}{line}: not readable as {form} ({problem}); {remedy}") from error
    except (RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:  # `!!int ''` in YAML
        problem = error
        if isinstance(error, RecursionError):
            problem = "nested too deeply"
        elif isinstance(error, UnicodeError):
            problem = "the document contains an invalid character"
        raise UserError(f"{source}: not readable as {form} ({problem}); {remedy}") from error


def _check_depth(level: list[Any]) -> None:
    for _ in range(DEEPEST):
        level = [inner for node in level for inner in (node.values() if isinstance(node, dict) else node)]
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return
    raise RecursionError
