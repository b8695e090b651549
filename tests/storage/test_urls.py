"""Paths, URLs and options of their file systems."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.core.session import Session
from syncclip.core.settings import UserError
from syncclip.shards.cache import ShardCache, ShardFile
from syncclip.storage import urls
from tests.object_store import s3_server


def test_a_relative_path_is_an_error_in_a_submitted_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert urls.absolute("runs") == str(Path.cwd() / "runs")
    assert urls.absolute("s3://bucket/runs") == "s3://bucket/runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="relative path"):
        urls.absolute("runs")


def test_paths_are_local_with_or_without_a_file_scheme(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/x", b"1")
    assert storage.read_bytes(f"{tmp_path}/x") == b"1"
    assert storage.is_local("runs") and storage.is_local("/runs") and not storage.is_local("s3://runs")
    assert storage.local_path("~/x") == Path.home() / "x"
    assert storage.join("/", "a") == "/a" and storage.join("s3://b/", "c/", "d") == "s3://b/c/d"


def test_the_users_client_settings_take_precedence() -> None:
    with Session(options={"config_kwargs": {"read_timeout": 300}, "anon": True}):
        options = urls.options_of("s3://bucket/x")
    assert options["config_kwargs"] == {**urls.CLIENT, "read_timeout": 300}
    assert options["anon"] is True and options["use_listings_cache"] is False


@pytest.mark.parametrize("url", ["s3://bucket/x", "memory://bucket/x"])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"url": True}, "multiple values for argument 'url'"),
        ({"anom": True}, "unexpected keyword argument 'anom'"),
        ({"client_kwargs": {"endpoint": True}}, "unexpected keyword argument 'endpoint'"),
    ],
)
def test_an_invalid_option_is_a_one_line_error(url: str, options: dict[str, Any], error: str) -> None:
    if url.startswith("memory") and "url" not in options:
        pytest.skip("an in-memory file system accepts any other option")
    with Session(options=options), pytest.raises(UserError, match=f"^{url}: invalid storage options .*{error}; "):
        storage.exists(url)


@pytest.mark.parametrize("path", ["a\0b", "half\ud800", "a" * 256, "a/" * 2048, "~nobody-of-this-name/x"])
def test_an_invalid_path_is_a_one_line_error(path: str, tmp_path: Path) -> None:
    calls: list[Callable[[str], object]] = [
        *(storage.exists, storage.sizes, storage.read_bytes, storage.open_read, storage.remove, storage.sweep),
        lambda url: storage.read_many([url]),
        lambda url: storage.write_bytes(url, b"1"),
        lambda url: storage.fetch(url, tmp_path / "never"),
    ]
    for call in calls:
        with pytest.raises(UserError, match="is not a valid path"):
            call(path)


@pytest.mark.parametrize("path", ["pipe", "/dev/zero", "/dev/null"])
def test_a_pipe_or_a_device_is_an_error(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path_or_device = str(tmp_path / path)
    for call in (storage.read_bytes, storage.open_read, lambda url: storage.read_many([url])):
        with pytest.raises(UserError, match="is a pipe or a device"):
            call(path_or_device)
    with pytest.raises(UserError, match="is a pipe or a device"):
        storage.fetch(path_or_device, tmp_path / "copy")
    with pytest.raises(UserError, match="is a pipe or a device"):
        ShardCache().read(ShardFile(path_or_device), 0, 5)


@pytest.mark.slow
def test_options_override_the_configuration_of_fsspec(tmp_path: Path) -> None:
    """fsspec reads its configuration when a process starts."""
    code = (
        "import sys; from syncclip import storage; storage.configure(eval(sys.argv[1]));"
        "storage.write_bytes('s3://configured/a', b'x'); print(storage.exists('s3://configured/a'))"
    )
    with s3_server() as endpoint:
        import boto3

        boto3.resource("s3", endpoint_url=endpoint).Bucket("configured").create()
        nowhere = "http://127.0.0.1:9"
        (tmp_path / "s3.json").write_text(json.dumps({"s3": {"endpoint_url": endpoint}}))
        for variables, options in (
            ({"FSSPEC_CONFIG_DIR": str(tmp_path)}, {}),
            ({"FSSPEC_S3_ENDPOINT_URL": nowhere}, {"endpoint_url": endpoint}),
        ):
            command = [sys.executable, "-c", code, repr(options)]
            done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300)
            assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
