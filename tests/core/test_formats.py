from __future__ import annotations

import pytest
import yaml
from omegaconf import OmegaConf

from syncclip.core.formats import DEEPEST, MOST_NODES, NODE_BYTES, check_yaml, parse_json, parse_yaml, readable
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
        (b"\xff\xfe\xff", "it contains an invalid character"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "nested too deeply"),
        (b'{"a": "\\ud83d"}', "it contains an invalid character"),
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
def test_yaml_that_is_too_large_is_refused_before_it_becomes_values(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=r"^a\.yaml.*not readable as YAML \("):
        parse_yaml(text, "a.yaml")


def test_json_that_is_too_large_is_refused_before_it_becomes_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.core.formats.MOST_JSON", 1000)
    assert parse_json("[" + "1," * 498 + "1]", "a.json", list)
    assert "(1,001 bytes, the maximum is 1,000)" in refusal_of_json("[" + "1," * 499 + "1]")


@pytest.mark.parametrize(
    "text",
    [
        *("1e-3", "1e5", "1.5E+3", ".5", "1_000", "-.inf", "0x1f", "0o17", "012", "1:30", "yes", "~", "''"),
        *("2020-01-01", "2020-01-01 10:00:00", "1.2.3", "e5", ".", "+1.", "1e", "[1, {a: no}]", "{1: a, 2.5: b}"),
        *("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3", "${x}", "a photo of a {}."),
    ],
)
def test_yaml_is_read_as_omegaconf_reads_it(text: str) -> None:
    expected = OmegaConf.to_container(OmegaConf.create(f"v:\n  w: {text}" if "\n" not in text else text))
    assert parse_yaml(f"v:\n  w: {text}" if "\n" not in text else text, "a.yaml") == expected


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a\.yaml, line 3: not readable as YAML \(found duplicate key b\)"):
        parse_yaml("a:\n  b: 1\n  b: 2\n", "a.yaml")
