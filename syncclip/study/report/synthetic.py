"""The synthetic set for the page: how good it is, and what its filters rejected."""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import Any

from PIL import Image
from pydantic import ValidationError

from syncclip import storage
from syncclip.study.report.costs import Tile
from syncclip.study.report.sources import Sources
from syncclip.synthesis.quality import STATS_NAME, SetQuality
from syncclip.synthesis.rejects import SIDE, Reject, read_rejects

THUMBNAILS = 12
"""Rejects that are shown of each reason."""
COLUMNS = ("class", "pictures", "read right, %", "similarity", "shift")


def quality_for_page(found: Sources) -> dict[str, Any] | None:
    """Tiles, and head and rows of the table of classes, from stats.json; None where a set has none."""
    quality = _read(found)
    if quality is None:
        return None
    tiles = [_tile("read as their own class by the frozen CLIP", f"{quality.accuracy:.0f}", "%")]
    if quality.similarity is not None:
        real = "" if quality.real_similarity is None else f" (real ones: {quality.real_similarity:.2f})"
        tiles.append(_tile(f"similarity of two pictures of a class{real}", f"{quality.similarity:.2f}"))
    if quality.shift is not None and quality.shift.relative_distance is not None:
        tiles.append(_tile("shift to the real pictures", f"{quality.shift.relative_distance:.2f}"))
    tiles.append(_tile(f"near-duplicates among {_spaced(quality.measured)} pictures", _spaced(quality.near_duplicates)))
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
    strip = Image.new("RGB", (SIDE * len(rejects), SIDE))
    for place, one in enumerate(rejects):
        with Image.open(io.BytesIO(one.jpeg)) as thumbnail:
            strip.paste(thumbnail, (SIDE * place, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=72, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _tile(label: str, number: str, unit: str = "") -> Tile:
    return {"label": label, "number": number, "unit": unit}


def _spaced(value: int) -> str:
    return f"{value:,}".replace(",", " ")
