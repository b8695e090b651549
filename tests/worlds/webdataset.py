"""WebDataset shards as any writer makes them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.worlds.dataset import CLASSES, encoded, make_image


def tar(file: Path, samples: Iterable[dict[str, bytes]], prefix: str = "s") -> Path:
    """A tar with the members of each sample side by side, in any order of kinds, and no tables or markers beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for number, sample in enumerate(samples):
            for kind, data in sample.items():
                info = tarfile.TarInfo(f"{prefix}{number:07d}.{kind}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file


def samples(start: int = 0, count: int = 10, kind: str = "cls") -> list[dict[str, bytes]]:
    """`count` shapes of each class, the class told in a `.cls` or a `.json` member."""
    made = []
    for i in range(start, start + count):
        for label in range(len(CLASSES)):
            cell = str(label) if kind == "cls" else json.dumps({"label": label, "caption": "x"})
            made.append({kind: cell.encode(), "png": encoded(make_image(label, i), "PNG"), "txt": b"a shape"})
    return made
