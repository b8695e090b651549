"""Small real and synthetic images of every class, few enough bytes to live inside the page.

MERGED The synthetic set for the page: how good it is, and what its filters rejected.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pydantic import ValidationError

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import SPLITS, Dataset
from syncclip.reports.figures import Tile
from syncclip.reports.inputs import Sources
from syncclip.sets.quality import STATS_NAME, SetQuality
from syncclip.shards.reader import ShardSet
from syncclip.synthesis.rejects import SIDE as REJECT_SIDE
from syncclip.synthesis.rejects import Reject, read_rejects

SIDE = 64
"""Pixels of a side: what the embedded world has, and enough for a thumbnail of any other."""
MOST_CLASSES = 200
PER_SIDE = (8, 6, 4, 3, 2, 1)
"""Images of each domain that are tried, largest first, until all fit the budget."""
BUDGET = 850_000
"""Bytes of all images; base64 makes a third more of them in the page."""
RIBBON = 15


def image_strips(
    classnames: list[str], dataset: Dataset | None, synthetic: ShardSet | None, budget: int = BUDGET
) -> tuple[dict[str, Any], int]:
    """One image for each class, real images first, then synthetic ones, side by side.

    Args:
        classnames: names by class id.
        dataset: where real images are taken from (train, else val or test).
        synthetic: where synthetic images are taken from, its first ones.
        budget: bytes of all strips together.

    Returns:
        What the page needs, and how many images were unreadable and left out. Of more than `MOST_CLASSES` classes
        every so-many-th is shown.
    """
    found: dict[int, tuple[list[Image.Image], list[Image.Image]]] = {}
    prompts: dict[int, str] = {}
    lost = 0
    for label in _spread(len(classnames), MOST_CLASSES):
        real, lost_real = _real(dataset, label)
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


def _real(dataset: Dataset | None, label: int) -> tuple[list[Image.Image], int]:
    if dataset is None:
        return [], 0
    sets = [dataset.splits[split] for split in SPLITS if split in dataset.splits]
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


THUMBNAILS = 12
"""Rejects that are shown of each reason."""
COLUMNS = ("class", "images", "read right, %", "similarity", "shift")


def quality_for_page(found: Sources) -> dict[str, Any] | None:
    """Tiles, and head and rows of the table of classes, from stats.json; None where a set has none."""
    quality = _read(found)
    if quality is None:
        return None
    tiles = [_tile("read as their own class by the frozen CLIP", f"{quality.accuracy:.0f}", "%")]
    if quality.similarity is not None:
        real = "" if quality.real_similarity is None else f" (real ones: {quality.real_similarity:.2f})"
        tiles.append(_tile(f"similarity of two images of a class{real}", f"{quality.similarity:.2f}"))
    if quality.shift is not None and quality.shift.relative_distance is not None:
        tiles.append(_tile("shift to the real images", f"{quality.shift.relative_distance:.2f}"))
    tiles.append(_tile(f"near-duplicates among {_spaced(quality.measured)} images", _spaced(quality.near_duplicates)))
    if quality.prompts is not None:
        tiles.append(_tile("different prompts", _spaced(quality.prompts.distinct)))
    return {"tiles": tiles, "columns": COLUMNS, "rows": _rows(quality)}


def rejects_for_page(found: Sources) -> list[dict[str, Any]]:
    """For each reason with thumbnails: its name, how many were rejected, and the thumbnails side by side."""
    if found.synthetic is None:
        return []
    try:
        rejects = read_rejects(found.synthetic.url, THUMBNAILS)
    except Exception as error:  # damaged files make parsers raise nearly anything
        found.notes.append(f"The thumbnails of rejects could not be read and are left out ({error}).")
        return []
    counts: Counter[str] = Counter()
    for shard in found.stats.values():
        counts.update(shard.rejects)
    names = found.classnames
    return [
        {
            "reason": reason.replace("_", " "),
            "count": _spaced(counts[reason]),
            "src": _strip(some),
            "width": SIDE * len(some),
            "height": SIDE,
            "shown": ", ".join(names[one.label] if one.label < len(names) else str(one.label) for one in some),
        }
        for reason, some in sorted(rejects.items(), key=lambda pair: -counts[pair[0]])
    ]


def _read(found: Sources) -> SetQuality | None:
    if found.synthetic is None:
        return None
    place = storage.join(found.synthetic.url, STATS_NAME)
    try:
        data = storage.read_many([place]).get(place)
        return None if data is None else SetQuality.model_validate_json(data)
    except (ValidationError, OSError, ValueError):
        found.notes.append(f"{STATS_NAME} of the synthetic set could not be read and is left out.")
        return None


def _rows(quality: SetQuality) -> list[list[dict[str, Any]]]:
    """Cells of the table, the worst read class first; a cell has `text`, a `value` to sort by, `words` if no number."""
    order = sorted(quality.classes, key=lambda one: (101 if one.accuracy is None else one.accuracy, one.name))
    return [
        [
            {"text": one.name, "value": one.name, "words": True},
            {"text": str(one.images), "value": one.images},
            *(_cell(value, digits) for value, digits in ((one.accuracy, 0), (one.similarity, 2), (one.shift, 2))),
        ]
        for one in order
    ]


def _cell(value: float | None, digits: int) -> dict[str, Any]:
    return {"text": "" if value is None else f"{value:.{digits}f}", "value": "" if value is None else value}


def _strip(rejects: list[Reject]) -> str:
    """Thumbnails side by side, as the source of an image."""
    strip = Image.new("RGB", (REJECT_SIDE * len(rejects), REJECT_SIDE))
    for place, one in enumerate(rejects):
        with Image.open(io.BytesIO(one.jpeg)) as thumbnail:
            strip.paste(thumbnail, (REJECT_SIDE * place, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=72, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _tile(label: str, number: str, unit: str = "") -> Tile:
    return {"label": label, "number": number, "unit": unit}


def _spaced(value: int) -> str:
    return f"{value:,}".replace(",", " ")
