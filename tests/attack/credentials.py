"""Forty kinds of credentials with unique values, and a search for them in files, output and processes."""

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
    """The unique value of a kind of credential."""
    return "Sq" + hashlib.sha256(kind.encode()).hexdigest()[:22]


OPTIONS = (
    *("key", "secret", "token", "password", "passwd", "pass", "pwd", "passphrase", "username", "user"),
    *("sas_token", "connection_string", "account_key", "client_secret", "client_id", "tenant_id", "credential"),
    *("access_token", "refresh_token", "session_token", "identity_token", "api_key", "apikey", "auth", "cookie"),
    *("private_key", "pkey", "sse_customer_key", "authorization", "unknown_option"),
)
"""Storage options of fsspec's drivers that may contain a credential, and an unknown one."""


def options() -> dict[str, Any]:
    """Storage options with a credential in every position that may contain one."""
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
"""Recipe keys whose URL contains a credential."""

VALUES = sorted(
    {
        *(value(name) for name in OPTIONS),
        *map(value, ("client_kwargs.aws_access_key_id", "client_kwargs.aws_secret_access_key", "header", "proxy")),
        *map(value, ("client_kwargs.aws_session_token", "cookie of a session", "userinfo of client_kwargs")),
        *map(value, ("SSECustomerKey", "endpoint_url", "service account", "deeply nested", "signature")),
        *map(value, (*URLS, "path of a tracker")),
    }
)


def recipe(path: Path, base: str, **sections: Any) -> str:
    """Write a recipe that extends `base` with all the options and an MLflow server with a password."""
    sections.setdefault("training", {})["mlflow_uri"] = URLS["training.mlflow_uri"]
    sections["training"]["trackers"] = ["mlflow"]
    path.write_text(yaml.safe_dump({"extends": base, **sections, "storage": {"options": options()}}))
    return str(path)


def leaks(data: bytes) -> list[str]:
    """The credentials in some data: plain, quoted or in base64."""

    def forms(credential: str) -> tuple[bytes, ...]:
        encoded = base64.b64encode(f"me:{credential}".encode())
        return credential.encode(), quote(credential, safe="").encode(), encoded

    return [credential for credential in VALUES if any(form in data for form in forms(credential))]


def leaks_below(*folders: Path) -> dict[str, list[str]]:
    """File -> credentials in it, for all files in some folders."""
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return {str(file): credentials for file in files if (credentials := leaks(file.read_bytes()))}


@contextlib.contextmanager
def process_list() -> Iterator[set[bytes]]:
    """Collect the command lines of all processes during the block."""
    command_lines: set[bytes] = set()

    def poll() -> None:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command_lines.add(process.read_bytes())

    with repeating(poll, 0.05):
        yield command_lines


@contextlib.contextmanager
def kept(folder: Path, copies: Path) -> Iterator[None]:
    """Keep hard links in `copies` to all files that are created in a folder during the block."""
    copies.mkdir()

    def link() -> None:
        for file in folder.rglob("*"):
            with contextlib.suppress(OSError):
                if file.is_file() and not file.is_symlink():
                    os.link(file, copies / f"{file.stat().st_ino}-{file.name}")

    with repeating(link, 0.2):
        yield
