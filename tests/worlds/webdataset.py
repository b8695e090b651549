"""WebDataset shards of other tools, without tables or markers."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.worlds.dataset import CLASSES, encoded, make_image


def tar(file: Path, samples: Iterable[dict[str, bytes]], prefix: str = "s") -> Path:
    """Write a tar of samples, each given as extension -> content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for number, sample in enumerate(samples):
            for extension, data in sample.items():
                info = tarfile.TarInfo(f"{prefix}{number:07d}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file


def samples(start: int = 0, count: int = 10, label_kind: str = "cls") -> list[dict[str, bytes]]:
    """`count` samples per class, with the class in a `.cls` or a `.json` member."""
    result = []
    for variant in range(start, start + count):
        for label in range(len(CLASSES)):
            text = str(label) if label_kind == "cls" else json.dumps({"label": label, "caption": "x"})
            image = encoded(make_image(label, variant), "PNG")
            result.append({label_kind: text.encode(), "png": image, "txt": b"a shape"})
    return result
