"""Forty kinds of credentials, each with a value of its own, and a search for these wherever a run leaves bytes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from syncclip.runtime.heartbeat import repeating


def value(kind: str) -> str:
    """The credential of a kind: nothing else has it."""
    return "Sq" + hashlib.sha256(kind.encode()).hexdigest()[:22]


OPTIONS = (
    *("key", "secret", "token", "password", "passwd", "pass", "pwd", "passphrase", "username", "user"),
    *("sas_token", "connection_string", "account_key", "client_secret", "client_id", "tenant_id", "credential"),
    *("access_token", "refresh_token", "session_token", "identity_token", "api_key", "apikey", "auth", "cookie"),
    *("private_key", "pkey", "sse_customer_key", "authorization", "of_a_later_version"),
)
"""Names of storage options of fsspec's drivers that may hold a credential, and one that nobody knows yet."""


def options() -> dict[str, Any]:
    """Storage options that hold a credential at every place that may hold one."""
    nested = {
        "client_kwargs": {
            "aws_access_key_id": value("client_kwargs.aws_access_key_id"),
            "aws_secret_access_key": value("client_kwargs.aws_secret_access_key"),
            "aws_session_token": value("client_kwargs.aws_session_token"),
            "headers": {"Authorization": f"Bearer {value('header')}"},
            "cookies": {"session": value("cookie of a session")},
            "endpoint_url": f"http://me:{value('userinfo of client_kwargs')}@127.0.0.1:9",
        },
        "config_kwargs": {"proxies": {"https": f"http://me:{value('proxy')}@127.0.0.1:9"}},
        "s3_additional_kwargs": {"SSECustomerKey": value("SSECustomerKey")},
        "endpoint_url": f"http://me:{value('endpoint_url')}@127.0.0.1:9",
        "service_account": {"private_key": f"-----BEGIN PRIVATE KEY-----\n{value('service account')}\n-----END-----\n"},
        "a_list": [{"deeply": [value("deeply nested")]}],
        "url": f"https://account.blob/container?sv=2022&sig={value('signature')}",
    }
    return {name: value(name) for name in OPTIONS} | nested


URLS = {
    "training.mlflow_uri": f"http://me:{value('training.mlflow_uri')}@127.0.0.1:9/{value('path of a tracker')}/x",
    "dataset.root": f"http://me:{value('dataset.root')}@127.0.0.1:9/data",
    "training.synthetic": f"http://127.0.0.1:9/set?X-Amz-Signature={value('training.synthetic')}",
    "storage.root": f"http://me:a b'{value('storage.root')}@127.0.0.1:9/runs",
}
"""Recipe keys with a URL that holds one."""

VALUES = sorted(
    {
        *(value(name) for name in OPTIONS),
        *map(value, ("client_kwargs.aws_access_key_id", "client_kwargs.aws_secret_access_key", "header", "proxy")),
        *map(value, ("client_kwargs.aws_session_token", "cookie of a session", "userinfo of client_kwargs")),
        *map(value, ("SSECustomerKey", "endpoint_url", "service account", "deeply nested", "signature")),
        *map(value, (*URLS, "path of a tracker")),
    }
)


def recipe(place: Path, base: str, **sections: Any) -> str:
    """Write a recipe over `base` with all the options, and MLflow's server with a password."""
    sections.setdefault("training", {})["mlflow_uri"] = URLS["training.mlflow_uri"]
    sections["training"]["trackers"] = ["mlflow"]
    place.write_text(yaml.safe_dump({"extends": base, **sections, "storage": {"options": options()}}))
    return str(place)


def leaks(data: bytes) -> list[str]:
    """The credentials that some bytes hold, as they are, in a URL or in base 64."""
    found = []
    for one in VALUES:
        encoded = base64.b64encode(f"me:{one}".encode())
        if any(form in data for form in (one.encode(), quote(one, safe="").encode(), encoded)):
            found.append(one)
    return found


def leaks_below(*folders: Path) -> dict[str, list[str]]:
    """File -> the credentials in it, of all files of some folders."""
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return {str(file): found for file in files if (found := leaks(file.read_bytes()))}


@contextlib.contextmanager
def process_list() -> Iterator[set[bytes]]:
    """The command lines of all processes that live while the block runs."""
    seen: set[bytes] = set()

    def look() -> None:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                seen.add(process.read_bytes())

    with repeating(look, 0.05):
        yield seen


@contextlib.contextmanager
def kept(folder: Path, place: Path) -> Iterator[None]:
    """Keep in `place`, by a second name for each, all files that are made below a folder, though they are removed."""
    place.mkdir()

    def link() -> None:
        for file in folder.rglob("*"):
            with contextlib.suppress(OSError):
                if file.is_file() and not file.is_symlink():
                    os.link(file, place / f"{file.stat().st_ino}-{file.name}")

    with repeating(link, 0.2):
        yield
