"""Model predictions for images; the prediction for an unreadable image contains an error instead of classes."""

from __future__ import annotations

import json
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
from syncclip.shards.images import SkippedFiles, decode_image

EXTENSIONS = (".jsonl", ".parquet", ".csv")
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
"""Columns of predictions. `class` is the most probable of `classes`; for unreadable images, only `error` is set."""


@dataclass(frozen=True)
class Prediction:
    """An image's most probable classes, in descending order of probability, or an error."""

    image: str
    labels: Sequence[Label]
    error: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        """Prediction as a row with the columns in `SCHEMA`."""
        best = self.labels[0] if self.labels else None
        as_text = self.image.encode(errors="surrogateescape").decode(errors="backslashreplace")  # may not be UTF-8
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
    skipped: SkippedFiles | None = None,
) -> Iterator[Prediction]:
    """Yield predictions for the images from `find_images`, in order.

    Args:
        top: number of classes per image.
        batch: batch size; the next batch is prefetched.
        skipped: record of files that are not images, updated in place.
    """
    return classify_sources(model, find_images(names, skipped), top, batch)


def classify_sources(
    model: Model,
    images: Iterable[Source],
    top: int = 5,
    batch: int = BATCH,
    raised: type[UserError] | tuple[()] = (),
) -> Iterator[Prediction]:
    """Yield predictions for the given sources.

    Args:
        raised: `UserError` types to raise; other errors are stored in the predictions.
    """
    for items in read_ahead(partial(_pixels, model, raised), images, batch):
        pixels = [content for _, content in items if isinstance(content, Tensor)]
        labels = iter(model.labels(model.batch_probabilities(torch.stack(pixels)), top) if pixels else ())
        for name, content in items:
            yield Prediction(name, next(labels)) if isinstance(content, Tensor) else Prediction(name, [], content)


def _pixels(model: Model, raised: type[UserError] | tuple[()], source: Source) -> tuple[str, Tensor | str]:
    """Return an image's name, and either the preprocessed tensor or an error message."""
    try:
        return source.name, model.preprocess(decode_image(source.read(), source.name))
    except raised:
        raise
    except UserError as error:
        return source.name, cut(str(error)).removeprefix(f"{source.name}: ")


def write_predictions(predictions: Iterable[Prediction], url: str) -> None:
    """Write predictions atomically as JSON lines, CSV or parquet, depending on the file extension."""
    check_extension(url)
    rows = [prediction.row for prediction in predictions]
    if url.endswith(".jsonl"):
        storage.write_bytes(url, "".join(map(json_line, rows)).encode())
    elif url.endswith(".csv"):
        for row in rows:
            row |= {name: json.dumps(row[name], ensure_ascii=False) for name in ("classes", "probabilities")}
        storage.write_bytes(url, pd.DataFrame(rows, columns=SCHEMA.names).to_csv(index=False).encode())
    else:
        storage.write_table(url, pa.Table.from_pylist(rows, SCHEMA))


def check_extension(url: str) -> None:
    """Raise a `UserError` unless the extension is one of `EXTENSIONS`."""
    if not url.endswith(EXTENSIONS):
        raise UserError(f"--out: {url}: unknown extension; use one of {', '.join(EXTENSIONS)}")


def json_line(row: dict[str, Any]) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"
