"""Reference images for real guidance: the few-shot images that generation starts from.

A plan contains the images' checksums. Copies of the images are stored as shards in the dataset's folder, under
`guides/<hash of all checksums>`.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import Dataset
from syncclip.shards.images import decode_image
from syncclip.shards.markers import committed
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis.filters.assets import checksum_of
from syncclip.synthesis.plan import Entry, Plan

FOLDER = "guides"
SHARD_IMAGES = 1024


class ReferenceImages:
    """Real images of a plan, read from the dataset at `url`; raises a UserError if one is missing (see `store`)."""

    def __init__(self, plan: Plan, url: str) -> None:
        self.plan = plan
        self.url = _folder(plan.guides, url)
        expected = [len(real) for real in plan.guides]
        images = ShardSet(self.url) if committed(self.url) else None
        if images is None or [len(images.rows_of(label)) for label in range(plan.classes)] != expected:
            raise UserError(f"{self._incomplete()}; run `syncclip synth` with the original recipe")
        self._images = images

    def of(self, entries: Sequence[Entry]) -> list[Image.Image | None]:
        """Return the RGB image that each entry starts from, or None for noise; raise a UserError if it has changed."""
        return [self._guide(entry) for entry in entries]

    def _guide(self, entry: Entry) -> Image.Image | None:
        planned = self.plan.guide_of(entry.label, entry.image)
        if planned is None:
            return None
        rows = self._images.rows_of(entry.label)
        row = int(rows[entry.image % len(rows)])
        data, name = self._images.read(row), self._images.name(row)
        if checksum_of(data) != planned:
            raise UserError(
                f"{self._incomplete()}: {name} has changed; restore it, or generate into a different folder"
            )
        return decode_image(data, name)

    def _incomplete(self) -> str:
        return f"{self.url} lacks the real images that the dataset was created with"


def real_images(dataset: Dataset, shots: int, seed: int) -> list[list[bytes]]:
    """Return each class's few-shot image files, in the order in which generation uses them."""
    images: list[list[bytes]] = [[] for _ in dataset.classnames]
    labels = dataset.split("train").labels
    for row in dataset.few_shot(shots, seed):
        images[int(labels[row])].append(dataset.splits["train"].read(int(row)))
    return images


def digests(images: Sequence[Sequence[bytes]]) -> tuple[tuple[str, ...], ...]:
    """Return the checksums of each class's real images, as stored in a plan."""
    return tuple(tuple(map(checksum_of, of_class)) for of_class in images)


def store(images: Sequence[Sequence[bytes]], dataset: Dataset, url: str) -> None:
    """Write the missing shards of real images to the synthetic dataset at `url`."""
    folder = _folder(digests(images), url)
    owner = storage.identity(folder.rpartition("/")[2])
    existing = committed(folder, owner=owner)
    rows = [(label, data) for label, of_class in enumerate(images) for data in of_class]
    samples = [Sample(index, label, data, dataset.prompt(label)) for index, (label, data) in enumerate(rows)]
    for shard, start in enumerate(range(0, len(samples), SHARD_IMAGES)):
        if shard not in existing:
            write_shard(folder, shard, samples[start : start + SHARD_IMAGES], owner=owner)


def _folder(guides: Sequence[Sequence[str]], url: str) -> str:
    """Return the URL of the folder that contains the real images with these checksums."""
    return storage.join(url, FOLDER, checksum_of("\n".join(",".join(of_class) for of_class in guides).encode()))
