from __future__ import annotations

import pytest

from syncclip.core.formats import DEEPEST, check_yaml, parse_json, readable
from syncclip.core.settings import UserError


def refusal_of_json(text: str | bytes, kind: type = dict) -> str:
    with pytest.raises(UserError) as refused:
        parse_json(text, "a.json", kind, "get it again")
    return str(refused.value)


def refusal_of_yaml(text: str) -> str:
    with pytest.raises(UserError) as refused, readable("a.yaml"):
        check_yaml(text)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\xff", "it holds what is no character"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "nested too deeply"),
        (b'{"a": "\\ud83d"}', "it holds what is no character"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_a_text_that_is_no_json_of_ours_is_told_in_one_sentence(text: bytes, reason: str) -> None:
    sentence = refusal_of_json(text)
    assert sentence.startswith(f"a.json: not readable as JSON ({reason}") and sentence.endswith("; get it again")


def test_json_of_another_kind_is_refused() -> None:
    assert refusal_of_json("[]") == "a.json: holds no keys with values; get it again"
    assert refusal_of_json("{}", list) == "a.json: holds no list; get it again"
    assert parse_json("5", "a.json", object) == 5


def test_json_as_deep_as_is_allowed_and_whole_characters_are_read() -> None:
    text = "[" * DEEPEST + "]" * DEEPEST
    assert str(parse_json(text, "a.json", list)) == text
    assert parse_json(b'{"a": "\\ud83d\\ude00"}', "a.json", dict) == {"a": "😀"}


def bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 x"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000, "[" * 101 + "]" * 101),
        *("&a [*a]", "&a {b: *a}", bomb(12, 9), bomb(4, 2000), bomb(80, 2)),
    ],
)
def test_yaml_that_is_too_deep_or_grows_by_its_aliases_is_refused(text: str) -> None:
    assert refusal_of_yaml(text).startswith("a.yaml, line 1: not readable as YAML (")


def test_yaml_with_aliases_of_honest_size_is_read() -> None:
    assert check_yaml(bomb(5, 3)) is not None
    assert check_yaml("") is None
