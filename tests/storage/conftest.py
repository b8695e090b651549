"""An S3 server behind a proxy that injects faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from syncclip.storage import retries
from tests.object_store import faulty_bucket
from tests.worlds.faulty_s3 import FaultyS3


@pytest.fixture(scope="module")
def faulty() -> Iterator[tuple[str, FaultyS3]]:
    with faulty_bucket("spoilt") as (url, proxy):
        yield url, proxy


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds between retries."""
    monkeypatch.setattr(retries, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
    quick = SimpleNamespace(**{**vars(asyncio), "sleep": lambda _: asyncio.sleep(0.01)})
    monkeypatch.setattr("s3fs.core.asyncio", quick)


@pytest.fixture
def folder(faulty: tuple[str, FaultyS3], tmp_path: Path) -> Iterator[str]:
    """A new prefix behind the proxy, which injects no faults after the test."""
    yield f"{faulty[0]}/{tmp_path.name}-{time.monotonic_ns()}"
    faulty[1].soothe()
