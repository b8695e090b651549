"""A Ray head with a dashboard, as `ray start --head` makes it, apart from all other Rays of this machine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.one_machine import PATIENCE as PATIENCE
from cluster.one_machine import Head as Head
from cluster.one_machine import free_ports as free_ports

SMALL = "--object-store-memory=200000000"
"""Option of a node whose tasks pass little to each other."""


@contextlib.contextmanager
def ray_head(*options: str, **variables: str) -> Iterator[Head]:
    """A head of two CPUs, with further options of `ray start` and variables; it ends with the `with` block."""
    with (
        tempfile.TemporaryDirectory(prefix="sc", dir="/tmp", ignore_cleanup_errors=True) as folder,
        Head(Path(folder), **variables) as head,
    ):
        head.start("--num-cpus=2", SMALL, *options)
        yield head
