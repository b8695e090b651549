"""Small real and synthetic pictures of every class, few enough bytes to live inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from syncclip.benchmarks import SPLITS, Benchmark
from syncclip.settings import UserError
from syncclip.shards.reader import ShardSet

SIDE = 64
"""Pixels of a side: what the embedded world has, and enough for a thumbnail of any other."""
MOST_CLASSES = 200
PER_SIDE = (8, 6, 4, 3, 2, 1)
"""Pictures of each domain that are tried, largest first, until all fit the budget."""
BUDGET = 850_000
"""Bytes of all pictures; base64 makes a third more of them in the page."""
RIBBON = 15


def picture_strips(
    classnames: list[str], benchmark: Benchmark | None, synthetic: ShardSet | None, budget: int = BUDGET
) -> tuple[dict[str, Any], int]:
    """One image for each class, real pictures first, then synthetic ones, side by side.

    Args:
        classnames: names by class id.
        benchmark: where real pictures are taken from (train, else val or test).
        synthetic: where synthetic pictures are taken from, its first ones.
        budget: bytes of all strips together.

    Returns:
        What the page needs, and how many pictures were unreadable and left out. Of more than `MOST_CLASSES` classes
        every so-many-th is shown.
    """
    found: dict[int, tuple[list[Image.Image], list[Image.Image]]] = {}
    prompts: dict[int, str] = {}
    lost = 0
    for label in _spread(len(classnames), MOST_CLASSES):
        real, lost_real = _real(benchmark, label)
        made, lost_made = (
            _thumbs((synthetic, row) for row in synthetic.rows_of(label)[: PER_SIDE[0]]) if synthetic else ([], 0)
        )
        lost += lost_real + lost_made
        if real or made:
            found[label] = (real, made)
        if synthetic is not None and made:
            prompts[label] = synthetic.text(int(synthetic.rows_of(label)[0]))
    strips = _encode(found, budget)
    both = [label for label, (real, made) in found.items() if real and made] or list(found)
    ribbon = [both[place] for place in _spread(len(both), RIBBON)]
    return {
        "real": any(real for real, _ in found.values()),
        "made": any(made for _, made in found.values()),
        "strips": [
            {**strip, "name": classnames[strip["label"]], "prompt": prompts.get(strip["label"])} for strip in strips
        ],
        "ribbon": ribbon,
        "start": ribbon[len(ribbon) // 2] if ribbon else None,
    }, lost


def _real(benchmark: Benchmark | None, label: int) -> tuple[list[Image.Image], int]:
    if benchmark is None:
        return [], 0
    sets = [benchmark.splits[split] for split in SPLITS if split in benchmark.splits]
    rows = [(images, row) for images in sets for row in images.rows_of(label)]
    return _thumbs(rows[: PER_SIDE[0]])


def _thumbs(places: Iterable[tuple[Any, int]]) -> tuple[list[Image.Image], int]:
    """Square thumbnails, and how many could not be read."""
    tried = [_thumb(images, int(row)) for images, row in places]
    thumbs = [thumb for thumb in tried if thumb is not None]
    return thumbs, len(tried) - len(thumbs)


def _thumb(images: Any, row: int) -> Image.Image | None:
    try:
        return ImageOps.fit(images.image(row), (SIDE, SIDE), Image.Resampling.LANCZOS)
    except (UserError, OSError):
        return None


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly spread."""
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, most)).round())] if count else []


def _encode(found: dict[int, tuple[list[Image.Image], list[Image.Image]]], budget: int) -> list[dict[str, Any]]:
    strips: list[dict[str, Any]] = []
    for most in PER_SIDE:
        strips, size = [], 0
        for label, (real, made) in found.items():
            tiles = [*real[:most], *made[:most]]
            strip = Image.new("RGB", (SIDE * len(tiles), SIDE))
            for place, tile in enumerate(tiles):
                strip.paste(tile, (SIDE * place, 0))
            buffer = io.BytesIO()
            strip.save(buffer, "WEBP", quality=72, method=4)
            size += buffer.tell()
            source = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
            strips.append({"label": label, "src": source, "real": len(real[:most]), "made": len(made[:most])})
            if size > budget:
                break
        if size <= budget:
            return strips
    return strips[:-1]
