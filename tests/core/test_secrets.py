"""Secrets are removed from files and masked in messages."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest

from syncclip.core import secrets
from syncclip.core.secrets import (
    harmless,
    json_without_secrets,
    redacted,
    remember_arguments,
    remember_options,
    remember_urls,
    shareable,
    without_secrets,
)
from syncclip.core.settings import UserError
from syncclip.core.text import cut, printable


@pytest.fixture(autouse=True)
def no_secrets_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_seen", {"unused"})  # not empty, so that a test does not install the hooks
    monkeypatch.setattr(secrets, "_pattern", None)


def test_only_options_of_the_allowlist_are_kept() -> None:
    options = {
        "anon": False,
        "key": "AKIA",
        "sas_token": "sig",
        "endpoint_url": "http://me:pw@store:9000",
        "client_kwargs": {"region_name": "eu", "aws_session_token": "t", "headers": {"X-Any": "t"}},
        "config_kwargs": {"proxies": {"https": "http://u:p@proxy:3128"}, "retries": {"mode": "legacy"}},
        "of_a_later_version": "t",
    }
    assert harmless(options) == {
        "anon": False,
        "endpoint_url": "http://store:9000",
        "client_kwargs": {"region_name": "eu"},
        "config_kwargs": {"proxies": {"https": "http://proxy:3128"}, "retries": {"mode": "legacy"}},
    }


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("at https://me:pw@host/a", "at https://host/a"),
        ("at s3://token@host/a, http://x:y@b", "at s3://host/a, http://b"),
        ("https://h/a?X-Amz-Signature=ab12&size=3", "https://h/a?X-Amz-Signature=***&size=3"),
        ("https://h/a?sv=1&sig=a%2Fb", "https://h/a?sv=1&sig=***"),
        ("https://h/a?access_token=ab#there", "https://h/a?access_token=***#there"),
        ("EndpointSuffix=x;AccountKey=ab==;A=b", "EndpointSuffix=x;AccountKey=***;A=b"),
        ("https://me:p/w@host/a", "https://host/a"),
        ("http://me:it's@host/a", "http://host/a"),
        ("no http://me:pa ss@host/a", "no http://host/a"),
        ("http://host: ask me@home; http://host:80 or me@home", "http://host: ask me@home; http://host:80 or me@home"),
        ("https://h/#access_token=ab", "https://h/#access_token=***"),
        ("https://h/a?code=ab&n=1", "https://h/a?code=***&n=1"),
        ("s3://bucket/a@2x.png and a@b.org", "s3://bucket/a@2x.png and a@b.org"),
        ("http://host:9000/a@2x.png", "http://host:9000/a@2x.png"),
        ("github://owner:repository@main/a", "github://owner:repository@main/a"),
        ("a photo of a {}, signed = no", "a photo of a {}, signed = no"),
    ],
)
def test_secrets_are_removed_from_urls_in_a_text(text: str, clean: str) -> None:
    assert without_secrets(text) == clean


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("https://me:a b@host/a", "https://host/a"),
        ("https://me: a'b\"c<d>@host/a", "https://host/a"),
        ("https://me:a/c d@host/a", "https://host/a"),
        ("https://me:a@b@host/a@2x", "https://host/a@2x"),
        ("https://me:a\nb@host", "https://host"),
        ("https://to ken@host/a", "https://host/a"),
        ("abfs://container@account/a", "abfs://container@account/a"),
        ("github://owner:repository@main/a", "github://owner:repository@main/a"),
        ("http://host:9000/a@2x.png", "http://host:9000/a@2x.png"),
        ("https://h/a?to%6ben=a&n=1", "https://h/a?to%6ben=***&n=1"),
        ("https://h/a?to%256Ben=a", "https://h/a?to%256Ben=***"),
        ("https://h/a?url=x%26token%3Da", "https://h/a?url=x%26token%3D***"),
        ("https://h/a?token=a b;c", "https://h/a?token=***"),
        ("a photo of a {}; see https://h: a@b", "a photo of a {}; see https://h: a@b"),
    ],
)
def test_secrets_of_any_characters_are_removed_from_a_url(value: str, clean: str) -> None:
    assert shareable({"root": value}) == {"root": clean}
    document = json.dumps({"a": [value, 1.0], "b\\": "\u00e9"}, ensure_ascii=False, indent=1)
    assert json.loads(json_without_secrets(document)) == {"a": [clean, 1.0], "b\\": "\u00e9"}
    assert value != clean or json_without_secrets(document) == document


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://host/api/Zx81hq7fTT/mlflow", "https://host"),
        ("https://host:5000/T0/B0/abc?x=1#y", "https://host:5000"),
        ("https://host/%74oken/a", "https://host"),
        ("https://host/mlflow?token", "https://host/mlflow"),
        ("https://host/api/2.0/mlflow", "https://host/api/2.0/mlflow"),
        ("http://me:a b@host:5000/", "http://host:5000/"),
        ("http://me:a/b@host", None),
        ("http://me:a#b@host", None),
        ("me:pw@host", None),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("file:///home/me/a@b", "file:///home/me/a@b"),
        ("./mlruns", "./mlruns"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_a_trackers_url_is_written_without_possible_tokens(url: str, public: str | None) -> None:
    assert shareable({"training": {"mlflow_uri": url}}) == {"training": {"mlflow_uri": public}}


def test_secrets_of_a_trackers_url_are_masked_in_messages() -> None:
    remember_urls({"training": {"mlflow_uri": "https://host/api/Zx81hq7fTT/mlflow?key"}})
    remember_arguments(["training.mlflow_uri=https://me:a b81@host/hooks/Yx81hq7fTT"])
    assert redacted("/api/Zx81hq7fTT/2.0, Zx81hq7fTT, mlflow: hooks/Yx81hq7fTT, a b81, a%20b81") == (
        "/api/***/2.0, ***, mlflow: hooks/***, ***, ***"
    )


def test_seen_secrets_and_headers_are_masked_in_every_form() -> None:
    remember_options({"secret": "pa/ss word", "token": {"private_key": "-----BEGIN-----\nMIIEvQIBADANBgkqh\n"}})
    remember_urls({"training": {"mlflow_uri": "https://me:hunter2@host"}})
    assert redacted("{'Authorization': 'Bearer abc.def'}") == "{'Authorization': 'Bearer ***'}"
    basic = base64.b64encode(b"me:hunter2").decode()
    for text in ("pa/ss word", "pa%2Fss%20word", "MIIEvQIBADANBgkqh", "hunter2", basic):
        assert redacted(f"refused: {text}.") == "refused: ***."
        assert printable(f"<{text}>") == "<***>"
        assert str(UserError(f"no: {text}")) == "no: ***"


def test_secrets_in_arguments_are_masked_before_parsing() -> None:
    arguments = [
        "--out",
        "sftp://me:of-the-url@host/x",
        "storage.options.secret={of-the-option",
        "training.seed=public",
    ]
    remember_arguments([*arguments, "storage.root=s3://bucket/runs"])
    assert redacted("of-the-url, of-the-option, public") == "***, ***, public"
    assert redacted("s3://bucket/runs/one") == "s3://bucket/runs/one"


def test_short_secrets_are_masked_only_as_whole_words() -> None:
    remember_options({"password": "abcd", "pin": "abc"})
    assert redacted("abcd, abcde, abc") == "***, abcde, abc"


def test_secrets_are_removed_from_a_recipe() -> None:
    recipe = {"dataset": {"root": "http://u:p@h/d"}, "storage": {"root": "runs", "options": {"key": "k", "anon": True}}}
    assert shareable(recipe) == {
        "dataset": {"root": "http://h/d"},
        "storage": {"root": "runs", "options": {"anon": True}},
    }


def test_ordinary_values_of_options_are_not_masked() -> None:
    remember_options({"token": "cloud", "pool": 2048, "pin": 12345678})
    assert redacted("2048 images of a cloud, 12345678") == "2048 images of a cloud, ***"


def test_percent_encoded_secrets_are_masked() -> None:
    remember_options({"secret": "Sq/81 +hidden"})
    for text in ("Sq%2F81%20%2Bhidden", "Sq%2f81%20%2bhidden", "Sq/81%20%2Bhidden", "Sq%2F81+%2Bhidden"):
        assert redacted(f"no way to {text}") == "no way to ***"


def test_secrets_are_masked_in_logs_and_tracebacks() -> None:
    code = """
import logging, sys, threading
from syncclip.core.secrets import remember_options
logging.basicConfig(stream=sys.stdout)
remember_options({"secret": "value-of-the-secret"})
logging.getLogger("another.library").warning("sent %s", "value-of-the-secret")
try:
    raise OSError("refused value-of-the-secret")
except OSError:
    logging.getLogger("another.library").exception("it failed")
thread = threading.Thread(target=lambda: int("value-of-the-secret"))
thread.start()
thread.join()
raise RuntimeError("at the end value-of-the-secret")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "value-of-the-secret" not in done.stdout + done.stderr
    assert "WARNING:another.library:sent ***" in done.stdout
    assert "OSError: refused ***" in done.stdout
    assert "ValueError: invalid literal for int() with base 10: '***'" in done.stderr
    assert done.stderr.endswith("RuntimeError: at the end ***\n")


def test_a_proxy_without_a_scheme_and_cut_secrets_are_masked() -> None:
    proxies = {"proxies": {"https": "me:Sq81hidden@host:9"}}
    assert harmless({"config_kwargs": proxies}) == {"config_kwargs": {"proxies": {"https": "http://host:9"}}}
    remember_options({"token": "Sq" + 300 * "7", "config_kwargs": proxies})
    assert "7777" not in cut(repr("x" + "Sq" + 300 * "7"))
    assert redacted("no way to Sq81hidden") == "no way to ***"
