"""An S3 server behind a proxy that spoils what tests tell it to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncclip.storage import retries
from tests.object_store import faulty_bucket
from tests.worlds.faulty_s3 import FaultyS3


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[str, FaultyS3]]:
    with faulty_bucket("spoilt") as (url, proxy):
        yield url, proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds; that they grow is the libraries' own affair."""
    monkeypatch.setattr(retries, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)


@pytest.fixture
def place(behind: tuple[str, FaultyS3], tmp_path: Path) -> Iterator[str]:
    """A fresh prefix behind the proxy, which lets all pass again at the end."""
    yield f"{behind[0]}/{tmp_path.name}-{time.monotonic_ns()}"
    behind[1].soothe()
