"""JSON and YAML of others into plain values: whatever is in a text, the user gets its value or one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

import yaml

from syncclip.core.settings import UserError

DEEPEST = 100
"""Levels of lists and mappings. Ours have ten; with a thousand, those who visit them run out of stack."""

MOST_NODES = 1_000_000
"""Values of a YAML text, those that aliases repeat counted each time."""

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
        UserError: it is no JSON, of another kind, nested too deeply, or holds a character that no file can.
    """
    with readable(source, "JSON", remedy):
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        value = json.loads(text, object_pairs_hook=each)
        if text.count("[") + text.count("{") > DEEPEST:  # else it can't be, and need not be looked through
            _check_depth([value])
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a character is a character to JSON
    if not isinstance(value, kind):
        raise UserError(f"{source}: holds no {KINDS[kind]}; {remedy}")
    return value


def check_yaml(text: str | bytes) -> yaml.Node | None:
    """The root of a YAML text whose size, also with all aliases written out, is within limits; None of an empty one.

    Raises:
        yaml.YAMLError: it isn't, or is no YAML; see `readable`.
    """
    root: yaml.Node | None = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    level, count = [] if root is None else [root], 0
    for _ in range(DEEPEST):
        count += len(level)
        if not level or count > MOST_NODES:
            break
        level = list(islice(chain.from_iterable(map(_inner, level)), MOST_NODES + 1))
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
