"""What a model says of the images that a user names: a row of each, also of those that can't be read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd
from torch import Tensor

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import cut
from syncclip.inference.model import BATCH, Label, Model, decoders
from syncclip.inference.sources import Source, find_images
from syncclip.shards.images import decode_image

KINDS = (".jsonl", ".parquet", ".csv")


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


def classify(model: Model, names: Iterable[str], top: int = 5, batch: int = BATCH) -> Iterator[Answer]:
    """What a model says of the images that names stand for (see `find_images`), in their order, as they are computed.

    Args:
        top: classes of each image.
        batch: images in one forward pass; the files of as many more are read ahead.
    """
    coming = find_images(names)
    with decoders() as readers:
        ahead = [readers.submit(_pixels, model, one) for one in islice(coming, batch)]
        while ahead:
            ready, ahead = ahead, [readers.submit(_pixels, model, one) for one in islice(coming, batch)]
            found = [one.result() for one in ready]
            pixels = [content for _, content in found if isinstance(content, Tensor)]
            labels = iter(model.labels(model.probabilities(pixels, batch), top))
            for name, content in found:
                yield Answer(name, next(labels)) if isinstance(content, Tensor) else Answer(name, [], content)


def _pixels(model: Model, source: Source) -> tuple[str, Tensor | str]:
    """An image's name, and its tensor or why there is none."""
    try:
        return source.name, model.preprocess(decode_image(source.read(), source.name))
    except UserError as error:
        return source.name, cut(str(error)).removeprefix(f"{source.name}: ")


def write_answers(answers: Iterable[Answer], place: str) -> None:
    """Write all answers into a file, whole or not at all: JSON lines, CSV or parquet, by its ending."""
    check_place(place)
    rows = [answer.row for answer in answers]
    if place.endswith(".jsonl"):
        storage.write_bytes(place, "".join(map(line, rows)).encode())
        return
    table = pd.DataFrame(rows, columns=list(Answer("", []).row))
    if place.endswith(".csv"):
        for column in ("classes", "probabilities"):
            table[column] = [json.dumps(value, ensure_ascii=False) for value in table[column]]
        storage.write_bytes(place, table.to_csv(index=False).encode())
    else:
        storage.write_table(place, table)


def check_place(place: str) -> None:
    """Refuse a file that answers can't be written to before any is computed."""
    if not place.endswith(KINDS):
        raise UserError(f"--out: {place} is none of {', '.join(KINDS)}; give a name with one of these endings")


def line(row: dict[str, Any]) -> str:
    """A row as a JSON line."""
    return json.dumps(row, ensure_ascii=False) + "\n"
