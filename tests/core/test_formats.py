from __future__ import annotations

import pytest
import yaml
from omegaconf import OmegaConf

from syncclip.core.formats import DEEPEST, MOST_NODES, NODE_BYTES, check_yaml, parse_json, parse_yaml, readable
from syncclip.core.settings import UserError


def json_error(text: str | bytes, kind: type = dict) -> str:
    with pytest.raises(UserError) as caught:
        parse_json(text, "a.json", kind, "get it again")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\xff", "the document contains an invalid character"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "nested too deeply"),
        (b'{"a": "\\ud83d"}', "the document contains an invalid character"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_invalid_json_is_a_one_line_error(text: bytes, reason: str) -> None:
    message = json_error(text)
    assert message.startswith(f"a.json: not readable as JSON ({reason}") and message.endswith("; get it again")


def test_json_of_another_type_is_an_error() -> None:
    assert json_error("[]") == "a.json: expected an object; get it again"
    assert json_error("{}", list) == "a.json: expected a list; get it again"
    assert parse_json("5", "a.json", object) == 5


def test_json_of_maximum_depth_and_surrogate_pairs_are_parsed() -> None:
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
def test_yaml_that_is_too_deep_or_explodes_by_aliases_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match=r"^a\.yaml, line 1: not readable as YAML \("), readable("a.yaml"):
        check_yaml(text)


def test_yaml_with_few_aliases_is_parsed() -> None:
    assert check_yaml(bomb(5, 3)) is not None
    assert check_yaml("") is None


@pytest.mark.parametrize(
    "text",
    [
        "[" + "a," * MOST_NODES + "]",
        "- a\n" * (MOST_NODES + 1),
        "x" * (NODE_BYTES * MOST_NODES + 1),
        "{" * (NODE_BYTES * MOST_NODES + 1),
    ],
    ids=["list", "lines", "text", "braces"],
)
def test_yaml_that_is_too_large_is_rejected_before_parsing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "load", lambda *_: pytest.fail("parsed"))
    with pytest.raises(UserError, match=r"^a\.yaml.*not readable as YAML \("):
        parse_yaml(text, "a.yaml")


def test_json_that_is_too_large_is_rejected_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.core.formats.MOST_JSON", 1000)
    assert parse_json("[" + "1," * 498 + "1]", "a.json", list)
    assert "(1,001 bytes exceed the maximum of 1,000)" in json_error("[" + "1," * 499 + "1]")


@pytest.mark.parametrize(
    "text",
    [
        *("1e-3", "1e5", "1.5E+3", ".5", "1_000", "-.inf", "0x1f", "0o17", "012", "1:30", "yes", "~", "''"),
        *("2020-01-01", "2020-01-01 10:00:00", "1.2.3", "e5", ".", "+1.", "1e", "[1, {a: no}]", "{1: a, 2.5: b}"),
        *("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3", "${x}", "a photo of a {}."),
    ],
)
def test_yaml_is_parsed_like_omegaconf(text: str) -> None:
    document = text if "\n" in text else f"v:\n  w: {text}"
    assert parse_yaml(document, "a.yaml") == OmegaConf.to_container(OmegaConf.create(document))


def test_a_duplicate_key_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^a\.yaml, line 3: not readable as YAML \(found duplicate key b\)"):
        parse_yaml("a:\n  b: 1\n  b: 2\n", "a.yaml")
