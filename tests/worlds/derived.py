"""Folders that are derived from a run or a set, each with every kind of file: for tests that damage them. No Ray."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from syncclip.export.formats import Format, export
from syncclip.inference.model import load
from syncclip.interop.exports import export_prompts
from syncclip.synthesis.captioning import write_captions
from syncclip.synthetic_sets.export import LAYOUTS, export_set
from tests.worlds.dataset import make_image
from tests.worlds.language import asked, build_language_model
from tests.worlds.teacher import classify_here, teach_here

CHEAP: tuple[Format, ...] = ("vectors", "torch", "open_clip", "transformers")
"""Formats that are exported in seconds; ONNX takes longer."""


def make_exports(run: str, root: Path, formats: tuple[Format, ...] = CHEAP) -> dict[str, Path]:
    """Format -> folder of the run's export; a run of CoOp has all formats."""
    for to in formats:
        export(load(run, device="cpu"), to, str(root / to))
    return {to: root / to for to in formats}


def make_prompts_export(run: str, out: Path) -> Path:
    """A run with a checkpoint for its method's published code; a run of CoOp has one."""
    export_prompts(run, str(out))
    return out


def make_set_exports(url: str, root: Path) -> dict[str, Path]:
    """Layout -> folder of the set's export."""
    for to in LAYOUTS:
        export_set(url, str(root / to), to)
    return {to: root / to for to in LAYOUTS}


def make_tars(folder: Path, shards: int = 2, images: int = 3) -> Path:
    """Tars of images, `a.tar` and so on, of equal size and without commit markers."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{chr(ord('a') + shard)}.tar", "w") as tar:
            for number in range(images):
                data = io.BytesIO()
                make_image(number % 6, shard * images + number).save(data, "PNG")
                header = tarfile.TarInfo(f"{number:09}.png")
                header.size = len(data.getvalue())
                tar.addfile(header, io.BytesIO(data.getvalue()))
    return folder


def make_predictions(run: str, folder: Path, **asked: int) -> Path:
    """Two tars with the run's predictions beside each; `top` and `batch` as `classify_shards` takes them."""
    if not folder.exists():
        make_tars(folder)
    classify_here(run, str(folder), **asked)
    return folder


def make_teacher(run: str, url: str, out: Path) -> Path:
    """A teacher's files for a set of two shards or more, whose classes are the run's."""
    teach_here(run, url, str(out))
    return out


def make_captions(folder: Path, classnames: tuple[str, ...] = ("cat", "fir tree"), seed: int = 0) -> Path:
    """The captions of some classes, by a tiny language model in the folder `model` beside them."""
    model = folder / "model"
    if not model.exists():
        build_language_model(model)
    write_captions(asked(str(model), seed=seed), classnames, str(folder / "captions.json"))
    return folder
