"""Training images that resemble a classified image, for the demo page."""

from __future__ import annotations

import base64
import io
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from syncclip.core.settings import UserError
from syncclip.core.text import first_line, short_path
from syncclip.datasets import load_dataset
from syncclip.runs.data import mixed_sets, real_sources, shard_cache
from syncclip.shards.reader import ShardSet
from syncclip.stream.sources import MixedSource
from syncclip.synthetic_sets.imported import read_set

if TYPE_CHECKING:
    from torch import Tensor

    from syncclip.inference.model import Model

PER_CLASS, BATCH = 20, 8
"""Maximum number of images to compare per class and dataset, and images per forward pass."""
SIDE = 96
"""Maximum side length of a thumbnail in pixels."""

log = logging.getLogger(__name__)


class Neighbours:
    """Nearest training images of a class, by cosine similarity of the model's image features. Thread-safe.

    A class's images are read and encoded when they are first needed.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._lock = model, threading.Lock()
        self._classes: dict[int, tuple[list[dict[str, Any]], Any]] = {}

    def nearest(self, pixels: Tensor, label: int, count: int) -> list[dict[str, Any]]:
        """Return the `count` images of a class that are nearest to a preprocessed image (3, S, S), as JSON values."""
        with self._lock:
            if label not in self._classes:
                self._classes[label] = self._encoded(label)
        images, features = self._classes[label]
        similarity = features @ self._model.image_features([pixels])[0]
        best = np.argsort(-similarity, kind="stable")[:count].tolist()
        return [images[position] | {"similarity": float(similarity[position])} for position in best]

    @cached_property
    def _sources(self) -> list[MixedSource[Any]]:
        return [*self._opened(synthetic=False), *self._opened(synthetic=True)]

    def _opened(self, synthetic: bool) -> Iterator[MixedSource[Any]]:
        """Open real or synthetic datasets; log and omit those that are unavailable or have other classes."""
        recipe, classes = self._model.recipe, self._model.classes
        try:
            if not synthetic and recipe.training.data != "synthetic":
                dataset = load_dataset(recipe.dataset)
                if dataset.classnames != classes:
                    raise UserError(f"dataset {dataset.name!r} does not have the classes of the run")
                yield from real_sources(recipe, dataset)
            for mixed in mixed_sets(recipe.training) if synthetic and recipe.uses_synthetic else ():
                if (plan := read_set(mixed.url)) is None or list(plan.classnames) != classes:
                    raise UserError(f"{mixed.url} is no synthetic dataset with the classes of the run")
                yield MixedSource(ShardSet(mixed.url, cache=shard_cache(recipe.training)))
        except (UserError, OSError) as error:
            log.warning("training images are not shown: %s", first_line(error))

    def _encoded(self, label: int) -> tuple[list[dict[str, Any]], Any]:
        """Return a class's images as JSON values without similarities, and their unit-length features (n, D)."""
        images, pixels = [], []
        for source in self._sources:
            data, rows, synthetic = source.images, source.rows, source.rows is None
            for row in (data.rows_of(label) if rows is None else rows[data.labels[rows] == label])[:PER_CLASS].tolist():
                with suppress(UserError, OSError):
                    image, buffer = data.image(row), io.BytesIO()
                    caption, name = data.text(row) if synthetic else "", short_path(data.name(row))
                    pixels.append(self._model.preprocess(image))
                    image.thumbnail((SIDE, SIDE))
                    image.save(buffer, "JPEG")
                    url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
                    values = {"class": self._model.classes[label], "name": name, "caption": caption}
                    images.append({**values, "synthetic": synthetic, "image": url})
        return images, self._model.image_features(pixels, BATCH)
