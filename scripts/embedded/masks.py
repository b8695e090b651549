"""Pretraining data: shapes and names of the drawings in the pretraining icon sets."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .drawings import CONCEPTS, FAMILIES, choose, read_family, render

PIXELS = 64


@dataclass(frozen=True)
class Masks:
    """alpha (N, 64, 64) uint8; concept (N,) index into `concepts`; family (N,) index into `families`; N surface names.

    The first `classes` concepts are the dataset's classes.
    """

    alpha: np.ndarray
    concept: np.ndarray
    family: np.ndarray
    surfaces: list[str]
    concepts: list[str]
    families: list[str]
    classes: int

    def of_families(self, families: list[str]) -> Masks:
        """Return the drawings of the given icon sets."""
        keep = np.isin(self.family, [self.families.index(family) for family in families])
        surfaces = [surface for surface, kept in zip(self.surfaces, keep, strict=True) if kept]
        return replace(
            self, alpha=self.alpha[keep], concept=self.concept[keep], family=self.family[keep], surfaces=surfaces
        )


def make_masks(package: Path, path: Path) -> None:
    """Render all pretraining drawings except blank (< 1.5 %), full (> 97 %) and byte-identical shapes."""
    families = list(FAMILIES["pretraining"])
    concepts = sorted(CONCEPTS["classes"]) + sorted(CONCEPTS["other_concepts"])
    index = {concept: number for number, concept in enumerate(concepts)}
    alpha, concept, family, surfaces, seen = [], [], [], [], set()
    for number, (name, facts) in enumerate(FAMILIES["pretraining"].items()):
        for drawing in choose(read_family(package, name, facts["licence"]), most=8, most_other=4):
            mask = render(drawing, PIXELS)[..., 3]
            cover = mask.mean() / 255
            if not 0.015 < cover < 0.97 or (drawing.concept, mask.tobytes()) in seen:
                continue
            seen.add((drawing.concept, mask.tobytes()))
            alpha.append(mask)
            concept.append(index[drawing.concept])
            family.append(number)
            surfaces.append(drawing.surface)
    path.parent.mkdir(parents=True, exist_ok=True)
    words = {"surfaces": surfaces, "concepts": concepts, "families": families, "classes": len(CONCEPTS["classes"])}
    np.savez(path, alpha=np.stack(alpha), concept=np.array(concept), family=np.array(family), words=json.dumps(words))


def load_masks(path: Path) -> Masks:
    with np.load(path) as file:
        words = json.loads(str(file["words"]))
        return Masks(alpha=file["alpha"], concept=file["concept"], family=file["family"], **words)
