"""Images for the page, few enough bytes to live inside it: real and synthetic ones of every class, and rejects."""

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
"""Pixels of a side: what the embedded world has, and enough for a thumbnail of any other."""
MOST_CLASSES = 200
PER_SIDE = (8, 6, 4, 3, 2, 1)
"""Images of each domain that are tried, largest first, until all fit the budget."""
BUDGET = 850_000
"""Bytes of all images; base64 makes a third more of them in the page."""
RIBBON = 15
THUMBNAILS = 12
"""Rejects that are shown of each reason."""


@dataclass
class Strip:
    """Images of a class as one image, side by side: first `real` ones, then `made` ones; `src` is its data URL."""

    label: int
    name: str
    prompt: str | None
    src: str
    real: int
    made: int


@dataclass(frozen=True)
class ImageStrips:
    """The strips of all classes that are shown, the classes of the strip at the top, and the class to begin with."""

    real: bool
    made: bool
    strips: list[Strip]
    ribbon: list[int]
    start: int


@dataclass(frozen=True)
class RejectStrip:
    """Rejects of one reason side by side: how many there were in all, and the classes of those shown."""

    reason: str
    count: str
    src: str
    width: int
    height: int
    shown: str


def image_strips(found: Inputs, budget: int = BUDGET) -> ImageStrips | None:
    """One strip for each class; None where no class has an image. Unreadable images are left out with a note.

    Args:
        found: real images are those of its dataset (train, else val or test), synthetic ones the first of its set.
        budget: bytes of all strips together.
    """
    labels, dataset, synthetic = _spread(len(found.classnames), MOST_CLASSES), found.dataset, found.synthetic
    splits = dataset.splits if dataset is not None else {}
    real, lost_real = _thumbnails((), labels)
    try:
        real, lost_real = _thumbnails((splits[split] for split in SPLITS if split in splits), labels)
    except Exception as error:  # damage to the dataset must not cost the synthetic images
        found.notes.append(f"The dataset's images are not available and are left out ({first_line(error)}).")
    try:
        made, lost_made = _thumbnails(() if synthetic is None else (synthetic,), labels)
        strips = _encode(found.classnames, [one for one in labels if real[one] or made[one]], real, made, budget)
        if synthetic is not None:
            prompted, of_class = [strip for strip in strips if strip.made], synthetic.labels
            firsts = np.array([np.argmax(of_class == strip.label) for strip in prompted], dtype=np.int64)
            for strip, prompt in zip(prompted, synthetic.texts(firsts), strict=True):
                strip.prompt = prompt
    except Exception as error:  # a set that is being rewritten or was cut off must not cost the rest of the report
        found.notes.append(f"The images could not be read and are left out ({error}).")
        return None
    if lost := lost_real + lost_made:
        found.notes.append(f"{counted(lost, 'unreadable image')} left out of the page.")
    if not strips:
        return None
    both = [label for label in labels if real[label] and made[label]] or [strip.label for strip in strips]
    ribbon = [both[place] for place in _spread(len(both), RIBBON)]
    return ImageStrips(any(real.values()), any(made.values()), strips, ribbon, ribbon[len(ribbon) // 2])


def _thumbnails(sets: Iterable[ImageSet], labels: Sequence[int]) -> tuple[dict[int, list[Image.Image]], int]:
    """Square thumbnails of the first images of each class, and how many could not be read."""
    found: dict[int, list[Image.Image]] = {label: [] for label in labels}
    room, lost = dict.fromkeys(labels, PER_SIDE[0]), 0
    for images in sets if labels else ():
        of_class = images.labels
        rows = np.concatenate([np.flatnonzero(of_class == label)[: room[label]] for label in labels])
        read: list[Image.Image | None] = [None] * len(rows)
        if isinstance(images, ShardSet):
            read = thumbnails(images.read_many(rows), SIDE)
        else:
            for place, row in enumerate(rows.tolist()):
                with suppress(UserError, OSError):
                    read[place] = ImageOps.fit(images.image(row), (SIDE, SIDE), Image.Resampling.LANCZOS)
        for label, thumbnail in zip(of_class[rows].tolist(), read, strict=True):
            room[label] -= 1
            if thumbnail is None:
                lost += 1
            else:
                found[label].append(thumbnail)
        if not any(room.values()):
            break
    return found, lost


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly spread."""
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, most)).round())] if count else []


def _encode(
    classnames: Sequence[str],
    labels: Sequence[int],
    real: dict[int, list[Image.Image]],
    made: dict[int, list[Image.Image]],
    budget: int,
) -> list[Strip]:
    """The strips with as many images as fit the budget; where even one of each doesn't fit, of the first classes."""
    sources: list[str] = []
    for most in PER_SIDE:
        sources, size = _side_by_side([real[label][:most] + made[label][:most] for label in labels], SIDE, budget)
        if size <= budget:
            break
    else:
        most, sources = PER_SIDE[-1], sources[:-1]
    return [
        Strip(label, classnames[label], None, source, len(real[label][:most]), len(made[label][:most]))
        for label, source in zip(labels, sources, strict=False)
    ]


def _side_by_side(groups: Iterable[Sequence[Image.Image]], side: int, budget: float = np.inf) -> tuple[list[str], int]:
    """The images of each group as one, as data URLs, up to the one that exceeds the budget; and their bytes."""
    sources, size = [], 0
    for images in groups:
        strip = Image.new("RGB", (side * len(images), side))
        for place, image in enumerate(images):
            strip.paste(image, (side * place, 0))
        buffer = io.BytesIO()
        strip.save(buffer, "WEBP", quality=72, method=4)
        sources.append("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
        size += buffer.tell()
        if size > budget:
            break
    return sources, size


def reject_strips(found: Inputs) -> list[RejectStrip]:
    """Thumbnails of rejects for each reason, the most frequent first."""
    if found.synthetic is None or not any(name.endswith("_rejects.parquet") for name in found.set_files):
        return []
    try:
        rejects = read_rejects(found.synthetic.url, THUMBNAILS, found.owner)
        reasons = sorted(rejects, key=lambda reason: -found.rejects[reason])
        tiles = [[decode_image(one.jpeg, "a reject") for one in rejects[reason]] for reason in reasons]
        sources, _ = _side_by_side(tiles, REJECT_SIDE)
    except Exception as error:  # damaged files make parsers raise nearly anything
        found.notes.append(f"The thumbnails of rejects could not be read and are left out ({error}).")
        return []
    names, strips = found.classnames, []
    for reason, source in zip(reasons, sources, strict=True):
        labels = [one.label for one in rejects[reason]]
        shown = ", ".join(names[label] if label < len(names) else str(label) for label in labels)
        name, count, width = reason.replace("_", " "), thousands(found.rejects[reason]), REJECT_SIDE * len(labels)
        strips.append(RejectStrip(name, count, source, width, REJECT_SIDE, shown))
    return strips
