"""Rebuild the embedded suites `icons` and `symbols` and models: `python -m scripts.embedded PACKAGE WORK [OUT [PART]]`.

PACKAGE is the unpacked npm package `@iconify/json`; WORK is a folder for checkpoints, from which an interrupted run
resumes. PART is `datasets`, `clip`, `levels` or `generator` (default: all four). `clip` and `generator` each take hours
on one core, and can run in parallel; `levels` reads the model that `clip` wrote.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from syncclip.embedded import FOLDER

from . import clip, generator, text
from .dataset import make_suite
from .drawings import ICONS, SYMBOLS
from .masks import load_masks, make_masks
from .notice import make_notice

PARTS = ("datasets", "clip", "levels", "generator")


def main(package: Path, work: Path, out: Path, parts: Sequence[str] = PARTS) -> None:
    logging.getLogger().setLevel(logging.ERROR)
    # A single thread makes the order of summation, and therefore the weights, deterministic.
    torch.set_num_threads(1)
    if not (work / "masks.npz").exists():
        make_masks(package, work / "masks.npz")
    masks = load_masks(work / "masks.npz")
    print(f"{len(masks.alpha)} pretraining drawings of {len(masks.concepts)} concepts", flush=True)
    if "datasets" in parts:
        make_suite(package, masks, ICONS, out / "dataset")
        make_suite(package, masks, SYMBOLS, out / "symbols")
        make_notice(package, out.parent / "NOTICE")
    if "clip" in parts:
        clip.pretrain(masks, work / "clip", work, clip.Schedule())
        text.retrain(masks, work / "clip", out / "clip", work, text.Schedule())
    if "levels" in parts:
        text.train_levels(masks, out / "clip", work, text.Schedule())
    if "generator" in parts:
        generator.pretrain(masks, out / "generator", work)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5) or not set(sys.argv[4:]) <= set(PARTS):
        sys.exit(__doc__)
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        Path(sys.argv[3]) if len(sys.argv) > 3 else FOLDER / "icons",
        sys.argv[4:] or PARTS,
    )
