"""Training images that resemble a classified image, for the demo page."""

from __future__ import annotations

import base64
import io
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from syncclip.core.settings import UserError
from syncclip.core.text import first_line, short_path
from syncclip.datasets import load_dataset
from syncclip.runs.data import mixed_sets, real_sources, shard_cache
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.synthetic_sets.imported import read_set

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from syncclip.inference.model import Model

PER_CLASS = 20
"""Maximum number of images to compare per class and dataset."""
BATCH = 8
"""Images per forward pass; other requests are served in between."""
SIDE = 96
"""Maximum side length of a thumbnail in pixels."""

log = logging.getLogger(__name__)


class Neighbours:
    """Nearest training images of a class, by cosine similarity of the model's image features. Thread-safe.

    A class's images are read and encoded when they are first needed; datasets that are unavailable or have other
    classes are logged and omitted.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._lock = model, threading.Lock()
        self._sources: list[tuple[bool, ImageSet, npt.NDArray[np.int64] | None]] | None = None
        self._classes: dict[int, tuple[list[dict[str, Any]], npt.NDArray[np.float32]]] = {}

    def nearest(self, pixels: Tensor, label: int, count: int) -> list[dict[str, Any]]:
        """Return the `count` images of a class that are nearest to a preprocessed image (3, S, S), as JSON values."""
        with self._lock:
            if self._sources is None:
                self._sources = [*self._opened(synthetic=False), *self._opened(synthetic=True)]
            if label not in self._classes:
                self._classes[label] = self._encoded(label)
        images, features = self._classes[label]
        similarity = features @ self._model.image_features([pixels])[0]
        best = np.argsort(-similarity, kind="stable")[:count].tolist()
        return [images[position] | {"similarity": float(similarity[position])} for position in best]

    def _opened(self, synthetic: bool) -> Iterator[tuple[bool, ImageSet, npt.NDArray[np.int64] | None]]:
        """Open the run's real or synthetic datasets, and yield their images with the rows used (None for all)."""
        recipe, classes = self._model.recipe, self._model.classes
        try:
            if synthetic:
                for mixed in mixed_sets(recipe.training) if recipe.uses_synthetic else ():
                    plan = read_set(mixed.url)
                    if plan is None or list(plan.classnames) != classes:
                        raise UserError(f"{mixed.url} is no synthetic dataset with the classes of the run")
                    yield True, ShardSet(mixed.url, cache=shard_cache(recipe.training)), None
            elif recipe.training.data != "synthetic":
                dataset = load_dataset(recipe.dataset)
                if dataset.classnames != classes:
                    raise UserError(f"dataset {dataset.name!r} does not have the classes of the run")
                for source in real_sources(recipe, dataset):
                    yield False, source.images, np.asarray(source.rows)
        except (UserError, OSError) as error:
            log.warning("training images are not shown: %s", first_line(error))

    def _encoded(self, label: int) -> tuple[list[dict[str, Any]], npt.NDArray[np.float32]]:
        """Return a class's images as JSON values without similarities, and their unit-length features (n, D)."""
        images: list[dict[str, Any]] = []
        pixels: list[Tensor] = []
        for synthetic, source, rows in self._sources or ():
            of_class = source.rows_of(label) if rows is None else rows[source.labels[rows] == label]
            for row in of_class[:PER_CLASS].tolist():
                with suppress(UserError, OSError):
                    image, buffer = source.image(row), io.BytesIO()
                    caption = source.text(row) if synthetic and isinstance(source, ShardSet) else ""
                    pixels.append(self._model.preprocess(image))
                    image.thumbnail((SIDE, SIDE))
                    image.save(buffer, "JPEG")
                    encoded = base64.b64encode(buffer.getvalue()).decode()
                    values = {"class": self._model.classes[label], "name": short_path(source.name(row))}
                    values |= {"caption": caption, "image": f"data:image/jpeg;base64,{encoded}"}
                    images.append(values | {"synthetic": synthetic})
        return images, self._model.image_features(pixels, BATCH)
