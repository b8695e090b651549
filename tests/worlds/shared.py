"""Files shared by several tests, which must not change them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_read(folder: str | Path) -> Iterator[None]:
    """Fail if a file below a folder is added, removed or written."""
    before = _files(Path(folder))
    yield
    changed = sorted({name for name, _, _ in before ^ _files(Path(folder))})
    assert not changed, f"a test changed {changed[0]}, which others read; copy {folder} first"


def _files(folder: Path) -> set[tuple[str, int, int]]:
    stats = ((str(path.relative_to(folder)), path.stat()) for path in folder.rglob("*") if path.is_file())
    return {(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats}
