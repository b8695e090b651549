"""The real images that generated images start from, where the generator has a guide ("real guidance").

They are the dataset's few shots, which trainings see as well. A plan names them by their digests, and they are below
the set's folder as shards, in `guides/<digest of all>`: so the set is generated, extended and repaired from
the same ones on every machine.
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
from syncclip.synthesis.filters.assets import digest_of
from syncclip.synthesis.plan import Entry, Plan

FOLDER = "guides"
SHARD_IMAGES = 1024


class ReferenceImages:
    """Gives the real image from which an entry of a plan starts; each is read when it is asked for.

    Args:
        plan: with `guides`.
        url: the set's folder, in which `store` has put them.

    Raises:
        UserError: they aren't there.
    """

    def __init__(self, plan: Plan, url: str) -> None:
        self.plan = plan
        self.url = _place(plan.guides, url)
        wanted = [len(real) for real in plan.guides]
        images = ShardSet(self.url) if committed(self.url) else None
        if images is None or [len(images.rows_of(label)) for label in range(plan.classes)] != wanted:
            raise UserError(f"{self._incomplete()}; run `syncclip synth` with the recipe that it was started with")
        self._images = images

    def of(self, entries: Sequence[Entry]) -> list[Image.Image | None]:
        """The RGB image that each starts from, None where it starts from noise.

        Raises:
            UserError: an image can't be read, or isn't the one that the plan names.
        """
        return [self._guide(entry) for entry in entries]

    def _guide(self, entry: Entry) -> Image.Image | None:
        planned = self.plan.guide_of(entry.label, entry.image)
        if planned is None:
            return None
        rows = self._images.rows_of(entry.label)
        row = int(rows[entry.image % len(rows)])
        data, name = self._images.read(row), self._images.name(row)
        if digest_of(data) != planned:
            raise UserError(f"{self._incomplete()}: {name} has changed; restore it, or generate into another folder")
        return decode_image(data, name)

    def _incomplete(self) -> str:
        return f"{self.url} doesn't hold the real images that the set was started with"


def real_images(dataset: Dataset, shots: int, seed: int) -> list[list[bytes]]:
    """For each class the files of its few shots, in the order of their use; nothing for those without real images.

    Raises:
        UserError: the dataset has no training images.
    """
    found: list[list[bytes]] = [[] for _ in dataset.classnames]
    labels = dataset.split("train").labels
    for row in dataset.few_shot(shots, seed):
        found[int(labels[row])].append(dataset.splits["train"].read(int(row)))
    return found


def digests(images: Sequence[Sequence[bytes]]) -> tuple[tuple[str, ...], ...]:
    """For each class the digests of its real images: what a plan holds of them."""
    return tuple(tuple(map(digest_of, of_class)) for of_class in images)


def store(images: Sequence[Sequence[bytes]], dataset: Dataset, url: str) -> None:
    """Write the real images into the folder of the set at `url`; what is there stays.

    After a crash each shard of them is there or isn't, and the same call writes those that are missing.
    """
    place = _place(digests(images), url)
    owner = storage.identity(place.rpartition("/")[2])
    there = committed(place, owner=owner)
    rows = [(label, data) for label, of_class in enumerate(images) for data in of_class]
    samples = [Sample(index, label, data, dataset.prompt(label)) for index, (label, data) in enumerate(rows)]
    for shard, start in enumerate(range(0, len(samples), SHARD_IMAGES)):
        if shard not in there:
            write_shard(place, shard, samples[start : start + SHARD_IMAGES], owner=owner)


def _place(guides: Sequence[Sequence[str]], url: str) -> str:
    """Where real images of these digests are; others, of a set that was started and given up, are elsewhere."""
    return storage.join(url, FOLDER, digest_of("\n".join(",".join(of_class) for of_class in guides).encode()))
