"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncclip.cluster import ray_session

# Tests share few cores: one thread a process is faster than many that wait for each other, and gives the same bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole test session: starting one takes seconds."""
    with ray_session(cpus=4):
        yield


@pytest.fixture(scope="session")
def worlds() -> Path:
    """The folder of tiny worlds: generators, backbones and benchmarks that load in milliseconds."""
    return Path(__file__).parent / "worlds"
