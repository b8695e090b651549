"""Looking into a synthetic set: what is there, how its synthesis does, and where one image came from."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted, size
from syncclip.shards.layout import committed
from syncclip.shards.reader import ShardSet
from syncclip.studies.status import PROGRESS, read_study_status
from syncclip.synthesis.status import read_status
from syncclip.training.run_folder import RECORD, RunRecord


def listing(url: str) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Headings and one row for each committed shard of a set, and a last one for all.

    Raises:
        UserError: there is no committed shard.
    """
    shards = committed(url)
    if not shards:
        raise UserError(f"{url}: no committed shard there; draw a set with `syncclip synth RECIPE --out {url}`")
    rows: list[Sequence[object]] = [
        (f"{i:05d}", s.count, len(s.per_class), size(s.bytes), sum(s.rejects.values()), s.seconds, s.sha256[:12])
        for i, s in shards.items()
    ]
    every = list(shards.values())
    classes = {label for s in every for label in s.per_class}
    rows.append(
        (
            "all",
            sum(s.count for s in every),
            len(classes),
            size(sum(s.bytes for s in every)),
            sum(sum(s.rejects.values()) for s in every),
            sum(s.seconds for s in every),
            "",
        )
    )
    return ("shard", "images", "classes", "size", "rejects", "seconds", "sha256"), rows


def sample(url: str, index: int, save: str | None = None) -> str:
    """Class, prompt and provenance of sample number `index` of a set as text; its JPEG is copied to `save` if given.

    Raises:
        UserError: the set has no such sample, or `save` can't be written.
    """
    images = ShardSet(url)
    rows = np.flatnonzero(images.samples.index == index)
    if not len(rows):
        raise UserError(f"{url}: no sample {index}; the last of its {len(images):,} is {images.samples.index.max()}")
    row = int(rows[0])
    image = images.image(row)
    lines = [
        images.name(row),
        f"class: {int(images.labels[row])}",
        f"prompt: {images.text(row)}",
        f"image: {image.width} x {image.height} px, {size(int(images.samples.size[row]))}",
        f"provenance: {json.dumps(images.provenance(row), ensure_ascii=False)}",
    ]
    if save is not None:
        storage.write_bytes(save, images.read(row))
        lines.append(f"saved: {save}")
    return "\n".join(lines)


def study_status(url: str) -> list[str]:
    """How the study at `url` is doing, as lines for people.

    Raises:
        UserError: there is none.
    """
    found = read_study_status(url)
    if found is None:
        raise UserError(f"{url}: no study has run its cells there yet; start one with `syncclip study RECIPE`")
    return [url, *found.lines()]


def status(url: str) -> list[str]:
    """How the study, set or run at `url` is doing, or the set of a recipe's folder, as lines for people.

    Raises:
        UserError: none of them is there.
    """
    if storage.exists(storage.join(url, PROGRESS)):
        return study_status(url)
    for place in (url, storage.join(url, "synthetic")):
        if (found := read_status(place)) is not None:
            return [place, *found.lines()]
    record = storage.join(url, RECORD)
    if storage.exists(record):
        run = RunRecord.model_validate_json(storage.read_bytes(record))
        return [
            url,
            f"{run.status}: {run.steps:,} of {counted(run.total_steps, 'step')}",
            *([f"why: {run.error}"] * bool(run.error)),
        ]
    if shards := committed(url):
        return [url, f"{counted(len(shards), 'shard')} committed; nothing tells how their synthesis ended"]
    raise UserError(f"{url}: no set and no run there; give the folder that `synth` or `train` printed")
