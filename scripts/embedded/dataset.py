"""The dataset `icons`: drawings by designers that no pretraining saw, as images, in three splits of shards."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from syncclip.shards.writer import Sample, write_shard

from .drawings import CONCEPTS, FAMILIES, Drawing, choose, read_family, render
from .masks import Masks
from .real import image

TEMPLATE = "a photo of a {}."
PER_SET = 2
TRAIN, VALIDATION = 24, 0.12
TWIN, LEAK = 0.93, 0.98


def make_dataset(package: Path, masks: Masks, out: Path) -> dict[str, int]:
    """Choose, render and split the images; write them as shards in which each image names its source."""
    by_class: dict[str, list[Drawing]] = defaultdict(list)
    sets = {**FAMILIES["benchmark_colour"], **FAMILIES["benchmark_single_colour"]}
    for family, facts in sets.items():
        for drawing in choose(read_family(package, family, facts["licence"]), most=PER_SET, most_other=0):
            by_class[drawing.concept].append(drawing)
    classnames = sorted(CONCEPTS["classes"])
    splits: dict[str, list[tuple[int, Drawing]]] = {"train": [], "val": [], "test": []}
    counts = {"dropped twins": 0, "dropped leaks": 0}
    for label, name in enumerate(classnames):
        seen = _squares(masks.alpha[masks.concept == masks.concepts.index(name)])
        kept: list[tuple[Drawing, np.ndarray, np.ndarray]] = []
        for drawing in sorted(by_class[name], key=lambda drawing: drawing.order):
            art = render(drawing, 96)
            shape, light = _square(art[..., 3]), _standard(_small(_luminance(art)))
            if not art[..., 3].mean() / 255 > 0.015:
                continue
            if (seen @ shape).max() > LEAK:
                counts["dropped leaks"] += 1
            elif any(shape @ other > TWIN and light @ lit > TWIN for _, other, lit in kept):
                counts["dropped twins"] += 1
            else:
                kept.append((drawing, shape, light))
        train = min(TRAIN, len(kept) // 2)
        validation = train + round(VALIDATION * len(kept))
        for place, (drawing, _, _) in enumerate(kept):
            split = "train" if place < train else "val" if place < validation else "test"
            splits[split].append((label, drawing))
    for split, members in splits.items():
        # Shards mix the classes, so that any part of a split shows all of them.
        members.sort(key=lambda member: member[1].order)
        write_shard(
            str(out / split),
            0,
            [_sample(place, label, drawing, sets) for place, (label, drawing) in enumerate(members)],
        )
        counts[split] = len(members)
    facts = {"name": "icons", "classnames": classnames, "template": TEMPLATE}
    (out / "dataset.json").write_text(json.dumps(facts, indent=1))
    return counts


def _sample(index: int, label: int, drawing: Drawing, sets: dict[str, dict[str, str]]) -> Sample:
    pixels = image(drawing, coloured=drawing.family in FAMILIES["benchmark_colour"])
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88, optimize=True)
    # The set, its id and the icon's name: NOTICE tells the set's author and licence.
    source = f"{sets[drawing.family]['name']} ({drawing.family}:{drawing.name})"
    return Sample(index, label, file.getvalue(), source)


def _small(grey: np.ndarray) -> np.ndarray:
    small: np.ndarray = ndimage.zoom(grey.astype(np.float32), 24 / grey.shape[0], order=1)
    return small


def _standard(values: np.ndarray) -> np.ndarray:
    values = values.ravel() - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


def _luminance(art: np.ndarray) -> np.ndarray:
    alpha = art[..., 3:] / 255
    light: np.ndarray = (art[..., :3] * alpha + 255 * (1 - alpha)) @ np.array([0.299, 0.587, 0.114])
    return light


def _square(alpha: np.ndarray) -> np.ndarray:
    """The shape cut to its bounding box at 24 x 24, centred and normed, so that a product is a correlation."""
    rows, columns = (np.flatnonzero((alpha > 25).any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return np.zeros(24 * 24, dtype=np.float32)
    box = Image.fromarray(alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return _standard(np.asarray(box.resize((24, 24), Image.Resampling.BOX), dtype=np.float32))


def _squares(alphas: np.ndarray) -> np.ndarray:
    return np.stack([_square(alpha) for alpha in alphas])
