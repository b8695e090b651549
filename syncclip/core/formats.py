"""JSON and YAML of others into plain values: whatever is in a text, the user gets its value or one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

import yaml

from syncclip.core.settings import UserError

DEEPEST = 100
"""Levels of lists and mappings. Ours have ten; with a thousand, those who visit them run out of stack."""

MOST_NODES = 100_000
"""Values of a YAML text, those that aliases repeat counted each time; OmegaConf takes 80 us for each."""

NODE_BYTES = 100
"""Upper bound of a YAML text's mean size per value that it may hold."""

MOST_JSON = 128 << 20
"""Bytes of a JSON document; Python's values take up to 20 times as many."""

KINDS: dict[object, str] = {dict: "keys with values", list: "list"}

T = TypeVar("T")


def parse_json(
    data: str | bytes,
    source: str,
    kind: type[T],
    remedy: str = "get or make it anew",
    each: Callable[..., Any] | None = None,
) -> T:
    """The value of a JSON text.

    Args:
        source: what messages call it.
        kind: what it must be, such as a dict.
        remedy: what a message tells the user to do.
        each: takes the (key, value) pairs of each object, and returns what stands for it; a dict by default.

    Raises:
        UserError: it is no JSON, of another kind, too large, nested too deeply, or holds a character that no file can.
    """
    with readable(source, "JSON", remedy):
        check_size(data, MOST_JSON)
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        value = json.loads(text, object_pairs_hook=each)
        if text.count("[") + text.count("{") > DEEPEST:  # else it can't be, and need not be looked through
            _check_depth([value])
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a character is a character to JSON
    if not isinstance(value, kind):
        raise UserError(f"{source}: holds no {KINDS[kind]}; {remedy}")
    return value


def check_size(data: str | bytes, most: int) -> None:
    """Refuse a text before a parser makes many times its size of it.

    Raises:
        ValueError: it is longer than `most`.
    """
    if len(data) > most:
        raise ValueError(f"{len(data):,} bytes, at most {most:,} are read")


def parse_yaml(text: str | bytes, source: str, remedy: str = "correct it") -> Any:
    """The value of a YAML text, as OmegaConf reads it: `1e-3` is a number, a date is a text.

    Args:
        source, remedy: see `parse_json`.

    Raises:
        UserError: it is no YAML, larger than `check_yaml` allows, or gives a key twice.
    """
    with readable(source, remedy=remedy):
        check_yaml(text)
        return yaml.load(text, _Loader)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C where it can be
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG and key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"found duplicate key {key.value}", problem_mark=key.start_mark)
            keys.add(str(key.value))
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [one for one in resolvers if one[0] not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")]
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
    """The root of a YAML text whose size, also with all aliases written out, is within limits; None of an empty one.

    Args:
        nodes: how many values it may hold; it may be `NODE_BYTES` times as long.

    Raises:
        yaml.YAMLError, ValueError: it isn't, or is no YAML; see `readable`.
    """
    check_size(text, NODE_BYTES * nodes)
    root: yaml.Node | None = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    level, count = [] if root is None else [root], 0
    for _ in range(DEEPEST):
        count += len(level)
        if not level or count > nodes:
            break
        level = list(islice(chain.from_iterable(map(_inner, level)), nodes + 1))
    if level:
        raise yaml.MarkedYAMLError(problem="nested too deeply, or too long", problem_mark=level[0].start_mark)
    return root


@contextmanager
def readable(source: str, form: str = "YAML", remedy: str = "correct it") -> Iterator[None]:
    """Turn what parsers raise of a text that is none of theirs into one sentence.

    Args:
        source, remedy: see `parse_json`.
        form: YAML or JSON.
    """
    try:
        yield
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"{source}: not readable as {form} (nested too deeply); {remedy}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place, problem = f", line {mark.line + 1}" if mark else "", getattr(error, "problem", None) or error
        raise UserError(f"{source}{place}: not readable as {form} ({problem}); {remedy}") from error
    except UnicodeError as error:
        raise UserError(f"{source}: not readable as {form} (it holds what is no character); {remedy}") from error
    except (
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:  # PyYAML's, of `!!int ''`, `!!bool x` and so on
        raise UserError(f"{source}: not readable as {form} ({error}); {remedy}") from error


def _check_depth(level: list[Any]) -> None:
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return
    raise RecursionError


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
