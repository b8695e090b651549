"""Folders derived from a run or a synthetic dataset, with every kind of file, for tests that damage them. No Ray."""

from __future__ import annotations

from pathlib import Path

from syncclip.export.formats import Format, export
from syncclip.inference.model import load
from syncclip.synthesis.captioning import write_captions
from syncclip.synthetic_sets.export import LAYOUTS, export_set
from tests.worlds.dataset import encoded, make_image
from tests.worlds.language import asked, build_language_model
from tests.worlds.teacher import classify_here, teach_here
from tests.worlds.webdataset import tar

CHEAP: tuple[Format, ...] = ("vectors", "torch", "open_clip", "transformers")
"""Formats whose export takes seconds; ONNX takes longer."""


def make_exports(run: str, root: Path, formats: tuple[Format, ...] = CHEAP) -> dict[str, Path]:
    """Export a run to each format; returns format -> folder. A CoOp run supports all formats."""
    for to in formats:
        export(load(run, device="cpu"), to, str(root / to))
    return {to: root / to for to in formats}


def make_set_exports(url: str, root: Path) -> dict[str, Path]:
    """Export a synthetic dataset in each layout; returns layout -> folder."""
    for to in LAYOUTS:
        export_set(url, str(root / to), to)
    return {to: root / to for to in LAYOUTS}


def make_predictions(run: str, folder: Path) -> Path:
    """Write the tars `a.tar` and `b.tar` of three images each, with the run's predictions beside them."""
    for name, first in (("a.tar", 0), ("b.tar", 3)):
        images = [encoded(make_image(number, first + number), "PNG") for number in range(3)]
        tar(folder / name, [{"png": image} for image in images])
    classify_here(run, str(folder))
    return folder


def make_teacher(run: str, url: str, out: Path) -> Path:
    """Write a teacher's soft labels for a synthetic dataset of the same classes."""
    teach_here(run, url, str(out))
    return out


def make_captions(folder: Path, seed: int = 0) -> Path:
    """Write captions of two classes, and the tiny language model that generated them in the folder `model`."""
    build_language_model(folder / "model")
    classnames = ("cat", "fir tree")
    write_captions(asked(str(folder / "model"), seed=seed), classnames, str(folder / "captions.json"))
    return folder
