"""Build the suites `icons` and `symbols`: drawings by designers excluded from pretraining, in shards of three splits.

As in the literature's datasets, designers occur in all splits. A designer's drawings of one class are in a single
split, so that no split contains variants of another split's drawings.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from syncclip.shards.writer import Sample, write_shard

from .drawings import FAMILIES, Drawing, Suite, choose, path_data, pretraining_paths, read_family, render
from .masks import Masks
from .real import image

TEMPLATE = "a photo of a {}."
PER_SET = 3
MOST_TRAINING = 20
"""Maximum number of training images per class."""
TRAINING_ALONE = {"noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat"}
"""Emoji sets from companies whose interface icons (by different designers) are used for pretraining."""
SHARES = {"test": 1 / 2, "val": 1 / 6}
"""Fraction of a class's images in each split; the remaining images are for training."""
TWIN, LEAK = 0.93, 0.98
SETS: dict[str, dict[str, str]] = {**FAMILIES["benchmark_colour"], **FAMILIES["benchmark_single_colour"]}


def make_suite(package: Path, masks: Masks, suite: Suite, out: Path) -> None:
    """Select, render and split the images of a suite's datasets; write shards and `design.json` with all counts."""
    drawings, dropped = select_drawings(package, masks, suite)
    design = {}
    for name, classnames in suite.datasets.items():
        splits = {classname: split_drawings(drawings[classname]) for classname in classnames}
        for split in ("train", "val", "test"):
            members = [(label, each) for label, classname in enumerate(classnames) for each in splits[classname][split]]
            # Mix the classes, so that any part of a split contains all of them.
            members.sort(key=lambda member: member[1].order)
            samples = [_sample(index, label, drawing) for index, (label, drawing) in enumerate(members)]
            write_shard(str(out / name / split), 0, samples, images_only=True)
        facts = {"name": f"{suite.name}/{name}", "classnames": classnames, "template": TEMPLATE}
        (out / name / "dataset.json").write_text(json.dumps(facts, indent=1))
        design[name] = {
            classname: {
                "designers": len({SETS[drawing.family]["author"] for drawing in drawings[classname]}),
                **{split: len(members) for split, members in splits[classname].items()},
                **dropped[classname],
            }
            for classname in classnames
        }
    (out / "suite.json").write_text(json.dumps({"datasets": sorted(suite.datasets)}, indent=1))
    if suite.unseen:
        (out / "design.json").write_text(json.dumps(design, indent=1))


def split_drawings(drawings: Sequence[Drawing]) -> dict[str, list[Drawing]]:
    """Split the drawings of a class by designer, in hash order.

    Raises:
        ValueError: a split is empty, because too few designers drew the class.
    """
    by_designer: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        by_designer[SETS[drawing.family]["author"]].append(drawing)
    splits: dict[str, list[Drawing]] = {"test": [], "val": [], "train": []}
    for author in sorted(by_designer, key=lambda author: _hash(f"{drawings[0].concept}:{author}")):
        theirs = by_designer[author]
        room = [
            split
            for split, share in SHARES.items()
            if not splits[split] or len(splits[split]) + len(theirs) <= share * len(drawings)
        ]
        splits["train" if not room or theirs[0].family in TRAINING_ALONE else room[0]] += theirs
    splits["train"] = sorted(splits["train"], key=lambda drawing: drawing.order)[:MOST_TRAINING]
    if empty := [split for split, members in splits.items() if not members]:
        raise ValueError(f"{drawings[0].concept}: no drawing is left for {' and '.join(empty)}; remove the class")
    return splits


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def select_drawings(
    package: Path, masks: Masks, suite: Suite
) -> tuple[dict[str, list[Drawing]], dict[str, Counter[str]]]:
    """Return the drawings of each class in hash order, and the number of duplicates and pretraining copies dropped."""
    by_class: dict[str, list[Drawing]] = {name: [] for name in suite.classes}
    for family, facts in SETS.items():
        for drawing in choose(read_family(package, family, facts["licence"]), most=PER_SET, most_other=PER_SET):
            if drawing.concept in by_class:
                by_class[drawing.concept].append(drawing)
    paths = pretraining_paths(package) if suite.unseen else set()
    selected, dropped = {}, {}
    for name, drawings in by_class.items():
        seen = _squares(masks.alpha[masks.concept == masks.concepts.index(name)])
        kept: list[tuple[Drawing, np.ndarray, np.ndarray]] = []
        counts = Counter({"dropped copies": 0, "dropped twins": 0})
        for drawing in sorted(drawings, key=lambda drawing: drawing.order):
            art = render(drawing, 96)
            shape, light = _square(art[..., 3]), _standard(_small(_luminance(art)))
            if not art[..., 3].mean() / 255 > 0.015:
                continue
            if (seen @ shape).max() > LEAK or path_data(drawing.body) & paths:
                counts["dropped copies"] += 1
            elif any(shape @ other > TWIN and light @ lit > TWIN for _, other, lit in kept):
                counts["dropped twins"] += 1
            else:
                kept.append((drawing, shape, light))
        selected[name], dropped[name] = [drawing for drawing, _, _ in kept], counts
    return selected, dropped


def _sample(index: int, label: int, drawing: Drawing) -> Sample:
    pixels = image(drawing, coloured=drawing.family in FAMILIES["benchmark_colour"])
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88, optimize=True)
    # NOTICE contains the author and licence of the icon set.
    source = f"{SETS[drawing.family]['name']} ({drawing.family}:{drawing.name})"
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
    """Return the shape in its bounding box at 24 × 24, with zero mean and unit norm (dot products are correlations)."""
    rows, columns = (np.flatnonzero((alpha > 25).any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return np.zeros(24 * 24, dtype=np.float32)
    box = Image.fromarray(alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return _standard(np.asarray(box.resize((24, 24), Image.Resampling.BOX), dtype=np.float32))


def _squares(alphas: np.ndarray) -> np.ndarray:
    return np.stack([_square(alpha) for alpha in alphas])
