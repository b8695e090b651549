"""Thumbnails of real, synthetic and rejected images for the report, within a size limit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from syncclip.core.settings import UserError
from syncclip.core.text import counted, first_line, thousands
from syncclip.datasets import SPLITS
from syncclip.reports.inputs import Inputs
from syncclip.shards.images import decode_image, thumbnails
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.synthesis.rejects import SIDE as REJECT_SIDE
from syncclip.synthesis.rejects import read_rejects

SIDE = 64
"""Width and height of a thumbnail in pixels."""
MAX_CLASSES = 200
"""Maximum number of classes with thumbnails."""
PER_SIDE = (8, 6, 4, 3, 2, 1)
"""Numbers of images per class and domain, tried in this order until the strips fit the size limit."""
BUDGET_BYTES = 850_000
"""Maximum total size of the strips in bytes before base64 encoding, which adds a third."""
RIBBON = 15
"""Number of classes in the strip at the top of the page."""
THUMBNAILS = 12
"""Maximum number of rejected images to show per reason."""


@dataclass
class Strip:
    """Thumbnails of a class in one image (data URL `src`): `real` real images, then `made` synthetic images."""

    label: int
    name: str
    prompt: str | None
    src: str
    real: int
    made: int


@dataclass(frozen=True)
class ImageStrips:
    """Strips of the displayed classes, labels of the classes in the top strip, and the initially selected label."""

    real: bool
    made: bool
    strips: list[Strip]
    ribbon: list[int]
    start: int


@dataclass(frozen=True)
class RejectStrip:
    """Images rejected for one reason, side by side, with the total count and the class names of the shown images."""

    reason: str
    count: str
    src: str
    width: int
    height: int
    shown: str


def image_strips(inputs: Inputs, budget: int = BUDGET_BYTES) -> ImageStrips | None:
    """Build one strip per class; return None if there are no images.
    Unreadable images are skipped and counted in a note of the report.

    Args:
        inputs: content of the report's files. Real images are taken from the train split, or else from val or test.
        budget: maximum total size of the strips in bytes.
    """
    labels, dataset, synthetic = _spread(len(inputs.classnames), MAX_CLASSES), inputs.dataset, inputs.synthetic
    splits = dataset.splits if dataset is not None else {}
    real, lost_real = _thumbnails((), labels)
    try:
        real, lost_real = _thumbnails((splits[split] for split in SPLITS if split in splits), labels)
    except Exception as error:  # continue with the synthetic images
        inputs.notes.append(f"The dataset's images are unavailable and were omitted ({first_line(error)}).")
    try:
        made, lost_made = _thumbnails(() if synthetic is None else (synthetic,), labels)
        labels = [label for label in labels if real[label] or made[label]]
        sources: list[str] = []
        for limit in PER_SIDE:  # use as many images per class as the size limit permits
            sources, size = _side_by_side([real[label][:limit] + made[label][:limit] for label in labels], SIDE, budget)
            if size <= budget:
                break
        else:  # even one image per class is too large, so omit the last classes
            limit, sources = PER_SIDE[-1], sources[:-1]
        strips = [
            Strip(label, inputs.classnames[label], None, source, len(real[label][:limit]), len(made[label][:limit]))
            for label, source in zip(labels, sources, strict=False)
        ]
        if synthetic is not None:
            prompted, of_class = [strip for strip in strips if strip.made], synthetic.labels
            firsts = np.array([np.argmax(of_class == strip.label) for strip in prompted], dtype=np.int64)
            for strip, prompt in zip(prompted, synthetic.texts(firsts), strict=True):
                strip.prompt = prompt
    except Exception as error:  # continue with the other sections
        inputs.notes.append(f"The images could not be read and were omitted ({error}).")
        return None
    if lost := lost_real + lost_made:
        inputs.notes.append(f"The page omits {counted(lost, 'unreadable image')}.")
    if not strips:
        return None
    both = [label for label in labels if real[label] and made[label]] or [strip.label for strip in strips]
    ribbon = [both[position] for position in _spread(len(both), RIBBON)]
    return ImageStrips(any(real.values()), any(made.values()), strips, ribbon, ribbon[len(ribbon) // 2])


def _thumbnails(sets: Iterable[ImageSet], labels: Sequence[int]) -> tuple[dict[int, list[Image.Image]], int]:
    """Create square thumbnails of the first images of each class, and count the unreadable images."""
    result: dict[int, list[Image.Image]] = {label: [] for label in labels}
    room, lost = dict.fromkeys(labels, PER_SIDE[0]), 0
    for images in sets if labels else ():
        of_class = images.labels
        rows = np.concatenate([np.flatnonzero(of_class == label)[: room[label]] for label in labels])
        read: list[Image.Image | None] = [None] * len(rows)
        if isinstance(images, ShardSet):
            read = thumbnails(images.read_many(rows), SIDE)
        else:
            for position, row in enumerate(rows.tolist()):
                with suppress(UserError, OSError):
                    read[position] = ImageOps.fit(images.image(row), (SIDE, SIDE), Image.Resampling.LANCZOS)
        for label, thumbnail in zip(of_class[rows].tolist(), read, strict=True):
            room[label] -= 1
            if thumbnail is None:
                lost += 1
            else:
                result[label].append(thumbnail)
        if not any(room.values()):
            break
    return result, lost


def _spread(count: int, limit: int) -> list[int]:
    """Select at most `limit` evenly spaced positions out of `count`."""
    return [int(at) for at in np.unique(np.linspace(0, count - 1, min(count, limit)).round())] if count else []


def _side_by_side(groups: Iterable[Sequence[Image.Image]], side: int, budget: float = np.inf) -> tuple[list[str], int]:
    """Join each group's images horizontally until the size limit is reached; return the data URLs and total size."""
    sources, size = [], 0
    for images in groups:
        strip = Image.new("RGB", (side * len(images), side))
        for position, image in enumerate(images):
            strip.paste(image, (side * position, 0))
        buffer = io.BytesIO()
        strip.save(buffer, "WEBP", quality=72, method=4)
        sources.append("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
        size += buffer.tell()
        if size > budget:
            break
    return sources, size


def reject_strips(inputs: Inputs) -> list[RejectStrip]:
    """Build strips of rejected images by reason, with the most frequent reason first."""
    if inputs.synthetic is None or not any(name.endswith("_rejects.parquet") for name in inputs.set_files):
        return []
    try:
        rejects = read_rejects(inputs.synthetic.url, THUMBNAILS, inputs.owner)
        reasons = sorted(rejects, key=lambda reason: -inputs.rejects[reason])
        tiles = [[decode_image(reject.jpeg, "a reject") for reject in rejects[reason]] for reason in reasons]
        sources, _ = _side_by_side(tiles, REJECT_SIDE)
    except Exception as error:  # parsers raise many exception types for corrupt files
        inputs.notes.append(f"The thumbnails of rejected images could not be read and were omitted ({error}).")
        return []
    names, strips = inputs.classnames, []
    for reason, source in zip(reasons, sources, strict=True):
        labels = [reject.label for reject in rejects[reason]]
        shown = ", ".join(names[label] if label < len(names) else str(label) for label in labels)
        name, count, width = reason.replace("_", " "), thousands(inputs.rejects[reason]), REJECT_SIDE * len(labels)
        strips.append(RejectStrip(name, count, source, width, REJECT_SIDE, shown))
    return strips
