"""What a model says of the images that a user names: a row of each, also of those that can't be read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import cut
from syncclip.inference.model import BATCH, Label, Model, read_ahead
from syncclip.inference.sources import Source, find_images
from syncclip.shards.images import decode_image

KINDS = (".jsonl", ".parquet", ".csv")
SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "class": pa.string(),
        "probability": pa.float64(),
        "classes": pa.list_(pa.string()),
        "probabilities": pa.list_(pa.float64()),
        "error": pa.string(),
    }
)
"""Of answers: `class` is the likeliest of the `classes`; of an image that can't be read, only `error` says why."""


@dataclass(frozen=True)
class Answer:
    """The likeliest classes of an image, the likeliest first; or none, and why."""

    image: str
    labels: Sequence[Label]
    error: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        """The answer as a row of a table, or as a JSON object."""
        best = self.labels[0] if self.labels else None
        as_text = self.image.encode(errors="surrogateescape").decode(errors="backslashreplace")  # it may be any bytes
        return {
            "image": as_text,
            "class": None if best is None else best.name,
            "probability": None if best is None else best.probability,
            "classes": [label.name for label in self.labels],
            "probabilities": [label.probability for label in self.labels],
            "error": self.error,
        }


def classify(
    model: Model,
    names: Iterable[str],
    top: int = 5,
    batch: int = BATCH,
    skipped: Counter[str] | None = None,
) -> Iterator[Answer]:
    """What a model says of the images that names stand for (see `find_images`), in their order, as they are computed.

    Args:
        top: classes of each image.
        batch: images in one forward pass; the files of as many more are read ahead.
        skipped: counts, by extension, the files that are not images.
    """
    return classify_sources(model, find_images(names, skipped), top, batch)


def classify_sources(
    model: Model,
    images: Iterable[Source],
    top: int = 5,
    batch: int = BATCH,
    unreadable: type[UserError] | tuple[()] = (),
) -> Iterator[Answer]:
    """As `classify`, of images that were found already.

    Args:
        unreadable: of an image that can't be read, the error that is raised, in place of a row with its reason.
    """
    for found in read_ahead(partial(_pixels, model, unreadable), images, batch):
        pixels = [content for _, content in found if isinstance(content, Tensor)]
        labels = iter(model.labels(model.batch_probabilities(torch.stack(pixels)), top) if pixels else ())
        for name, content in found:
            yield Answer(name, next(labels)) if isinstance(content, Tensor) else Answer(name, [], content)


def _pixels(model: Model, unreadable: type[UserError] | tuple[()], source: Source) -> tuple[str, Tensor | str]:
    """An image's name, and its tensor or why there is none."""
    try:
        return source.name, model.preprocess(decode_image(source.read(), source.name))
    except unreadable:
        raise
    except UserError as error:
        return source.name, cut(str(error)).removeprefix(f"{source.name}: ")


def write_answers(answers: Iterable[Answer], place: str) -> None:
    """Write all answers into a file, whole or not at all: JSON lines, CSV or parquet, by its ending."""
    check_place(place)
    rows = [answer.row for answer in answers]
    if place.endswith(".jsonl"):
        storage.write_bytes(place, "".join(map(line, rows)).encode())
    elif place.endswith(".csv"):
        for row in rows:
            row |= {name: json.dumps(row[name], ensure_ascii=False) for name in ("classes", "probabilities")}
        storage.write_bytes(place, pd.DataFrame(rows, columns=SCHEMA.names).to_csv(index=False).encode())
    else:
        storage.write_table(place, pa.Table.from_pylist(rows, SCHEMA))


def check_place(place: str) -> None:
    """Refuse a file that answers can't be written to before any is computed."""
    if not place.endswith(KINDS):
        raise UserError(f"--out: {place} is none of {', '.join(KINDS)}; give a name with one of these endings")


def line(row: dict[str, Any]) -> str:
    """A row as a JSON line."""
    return json.dumps(row, ensure_ascii=False) + "\n"
