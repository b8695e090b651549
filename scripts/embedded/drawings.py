"""Drawings from the npm package `@iconify/json`: concept and shape of each icon.

Each icon set is used either for pretraining or for the datasets (`families.json`). A drawing belongs to a concept if
its normalised name matches one of the concept's names (`concepts.json`).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

HERE = Path(__file__).parent
FAMILIES: dict[str, Any] = json.loads((HERE / "families.json").read_text())
CONCEPTS: dict[str, Any] = json.loads((HERE / "concepts.json").read_text())
LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "Unlicense", "BSD-3-Clause"}

PATH_DATA = re.compile(r'\s(?:d|points)="([^"]*)"')
PATH_TOKEN = re.compile(r"[a-zA-Z]|-?\d*\.?\d+(?:e-?\d+)?")
STYLE_WORDS = frozenset(CONCEPTS["style_words"])
LEADING_STYLES = {"ic": {"baseline", "outline", "round", "sharp", "twotone"}, "ion": {"ios", "md", "logo"}}


@dataclass(frozen=True)
class Drawing:
    """An icon of an icon set. `concept` is its canonical name; `surface` is the designer's name for it."""

    family: str
    name: str
    concept: str
    surface: str
    body: str
    box: tuple[float, float, float, float]

    @property
    def order(self) -> bytes:
        """Sort key for a deterministic random order."""
        return hashlib.sha256(f"{self.family}:{self.name}".encode()).digest()


@dataclass(frozen=True)
class Suite:
    """A suite of datasets: dataset -> class names, and hypernym in captions -> class names.

    `unseen` suites exclude drawings whose path data occurs in the pretraining icon sets.
    """

    name: str
    datasets: dict[str, list[str]]
    hypernyms: dict[str, list[str]]
    unseen: bool

    @property
    def classes(self) -> list[str]:
        return sorted(name for names in self.datasets.values() for name in names)


ICONS = Suite("icons", CONCEPTS["datasets"], CONCEPTS["hypernyms"], unseen=False)
SYMBOLS = Suite("symbols", **CONCEPTS["symbols"], unseen=True)


def normalise(family: str, name: str) -> str:
    """Return an icon's name without style words and numbers: `ic:baseline-gift4` becomes `gift`."""
    name = re.sub(r"-two-tone", "", name.lower())
    if family == "fluent":
        name = re.sub(r"-\d+-(regular|filled|light)$", "", name)
    words = [word for word in re.split(r"[-_]+", name) if word]
    if words and words[0] in LEADING_STYLES.get(family, set()) and len(words) > 1:
        words = words[1:]
    words = [re.sub(r"(?<=[a-z])\d+$", "", word) for word in words]
    while len(words) > 1 and (words[-1] in STYLE_WORDS or words[-1].isdigit()):
        words.pop()
    while len(words) > 1 and words[0].isdigit():
        words.pop(0)
    return " ".join(words)


def concept_names() -> dict[str, str]:
    """Return accepted name → concept: a class of the datasets, or another pretraining concept."""
    names = {concept: concept for concept in CONCEPTS["other_concepts"]}
    for concept, synonyms in CONCEPTS["classes"].items():
        names.update(dict.fromkeys(synonyms, concept))
    return names


def read_family(package: Path, family: str, licence: str) -> Iterator[Drawing]:
    """Yield all drawings of an icon set with an accepted name, without hidden icons or aliases."""
    if licence not in LICENCES:
        raise ValueError(
            f"{family}: licence {licence} may not be shipped; allowed licences: {', '.join(sorted(LICENCES))}"
        )
    data = json.loads((package / "json" / f"{family}.json").read_text())
    names = concept_names()
    for name, icon in data["icons"].items():
        surface = normalise(family, name)
        if icon.get("hidden") or surface not in names:
            continue
        size = {
            key: icon.get(key, data.get(key, fallback))
            for key, fallback in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        }
        box = (size["left"], size["top"], size["width"], size["height"])
        yield Drawing(family, name, names[surface], surface, icon["body"], box)


def path_data(body: str) -> set[str]:
    """Return the path data of an icon, with coordinates rounded to 0.1 units and without stroke widths or colours."""
    return {
        " ".join(
            token.replace("Z", "z") if token.isalpha() else f"{float(token):.1f}" for token in PATH_TOKEN.findall(path)
        )
        for path in PATH_DATA.findall(body)
    }


def pretraining_paths(package: Path) -> set[str]:
    """Return the path data of all drawings with an accepted name in the pretraining icon sets."""
    return {
        path
        for family, facts in FAMILIES["pretraining"].items()
        for drawing in read_family(package, family, facts["licence"])
        for path in path_data(drawing.body)
    }


def choose(drawings: Iterator[Drawing], most: int, most_other: int) -> list[Drawing]:
    """Select, by hash, at most `most` drawings per class and `most_other` drawings per other concept of an icon set."""
    by_concept: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        by_concept[drawing.concept].append(drawing)
    selected = []
    for concept in sorted(by_concept):
        limit = most if concept in CONCEPTS["classes"] else most_other
        selected += sorted(by_concept[concept], key=lambda drawing: drawing.order)[:limit]
    return selected


def render(drawing: Drawing, pixels: int, colour: str = "#000000") -> np.ndarray:
    """Return the drawing centred in a transparent square: (pixels, pixels, 4) uint8 RGBA."""
    left, top, width, height = drawing.box
    side = max(width, height)
    view = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    body = drawing.body.replace("currentColor", colour)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" width="{pixels}" height="{pixels}" color="{colour}" fill="{colour}">{body}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
