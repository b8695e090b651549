"""Paths and URLs, and the options of the file systems behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.storage import places


def test_a_relative_path_is_refused_inside_a_submitted_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.absolute("runs") == str(Path.cwd() / "runs")
    assert places.absolute("s3://bucket/runs") == "s3://bucket/runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="relative path"):
        places.absolute("runs")


def test_paths_are_local_with_or_without_a_file_scheme(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/x", b"1")
    assert storage.read_bytes(f"{tmp_path}/x") == b"1"
    assert storage.is_local("runs") and storage.is_local("/runs") and not storage.is_local("s3://runs")
    assert storage.local_path("~/x") == Path.home() / "x"
    assert storage.join("/", "a") == "/a" and storage.join("s3://b/", "c/", "d") == "s3://b/c/d"


def test_the_users_own_client_settings_win_over_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_options", {"config_kwargs": {"read_timeout": 300}, "anon": True})
    options = places.options_of("s3://bucket/x")
    assert options["config_kwargs"] == {**places.CLIENT, "read_timeout": 300}
    assert options["anon"] is True
    assert (
        places.options_of(
            "s3://bucket/x",
        )["use_listings_cache"]
        is False
    )
