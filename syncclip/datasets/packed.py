"""Opening a packed dataset, local or remote: `dataset.json` beside the shard folders `train/`, `val/` and `test/`."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets.dataset import SPLITS, TEMPLATE, Dataset, Images, Split
from syncclip.shards.reader import ShardSet

PACKED_FILE = "dataset.json"
FIRST_PACKED_FILE = "benchmark.json"
"""Its name in earlier versions."""
WHOLE_TRAIN = "train.parquet"
"""Class ids of the whole training split, of which `train/` has only the images of some few-shot choices."""


class PackedDataset(BaseModel):
    """Content of `dataset.json`."""

    name: str | None = None
    classnames: list[str] = Field(min_length=1)
    template: str = TEMPLATE
    splits: dict[Split, int] | None = None
    """Number of images of each split; None: there are all three splits, of unknown size."""
    only: list[int] | None = None
    """Ids of the candidate classes; None: all."""


def find_packed(url: str) -> str | None:
    """The `dataset.json` of a folder or URL; None where no dataset is packed there."""
    places = [storage.join(url, name) for name in (PACKED_FILE, FIRST_PACKED_FILE)]
    return next((place for place in places if storage.exists(place)), None)


def load_packed(url: str, name: str | None = None) -> Dataset:
    """Open a packed dataset.

    Raises:
        UserError: `dataset.json` is missing or broken, or a split lacks images that were packed.
    """
    file = find_packed(url)
    if file is None:
        file = storage.join(url, PACKED_FILE)
        raise UserError(f"{file}: missing; check the path, or pack the dataset with `syncclip shards pack`.")
    try:
        packed = PackedDataset.model_validate_json(storage.read_bytes(file))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}.") from error
    opened = {split: ShardSet(storage.join(url, split)) for split in packed.splits or SPLITS}
    for split, count in (packed.splits or {}).items():
        if len(opened[split]) != count:
            raise UserError(
                f"{storage.join(url, split)}: only {len(opened[split])} of {count} images are there, as a shard is "
                "missing or damaged; find it with `syncclip shards verify`, or pack the dataset again"
            )
    splits: dict[Split, Images] = dict(opened)
    whole = None
    if storage.exists(storage.join(url, WHOLE_TRAIN)):
        table = storage.read_parquet(storage.read_bytes(storage.join(url, WHOLE_TRAIN)))
        whole = table["label"].to_numpy().astype(np.int64)
    return Dataset(
        name=name or packed.name or url.rstrip("/").rpartition("/")[2],
        classnames=packed.classnames,
        template=packed.template,
        splits=splits,
        only=packed.only,
        whole_train=whole,
        part=None if whole is None else opened["train"].samples.index,
    )
