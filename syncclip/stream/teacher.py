"""A teacher's files: its probabilities of a synthetic set's images, shard by shard, and its class vectors.

`00000.safetensors` holds a tensor (n, C) of float32 whose rows are those of the table of the set's first shard; zeros
stand for an image that can't be read. `teacher.json`, written last, tells whose they are, and of which tars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from syncclip import storage
from syncclip.core.settings import MANY, Settings, ShortText, UserError
from syncclip.core.text import first_difference
from syncclip.shards.cache import ShardCache, ShardFile
from syncclip.shards.images import UnreadableImageError
from syncclip.shards.reader import ImageSet, ShardSet

TEACHER, VECTORS = "teacher.json", "class_vectors.safetensors"
AGAIN = "remove it, and run the `syncclip teacher` that wrote it again"
Probabilities = npt.NDArray[np.float32]


class TaughtShard(NamedTuple):
    """A file of probabilities, and the tar that it belongs to."""

    shard: int
    images: int
    bytes: int
    sha256: str
    tar_sha256: str


class TeacherFiles(Settings):
    """Content of `teacher.json`."""

    format: Literal[1] = 1
    name: str
    """Of the teacher's run."""
    digest: str
    """Of all that decides what it says: the run, what it learned, its CLIP's weights."""
    classnames: Annotated[tuple[ShortText, ...], MANY]
    dim: int
    """Length of its class vectors."""
    vectors_sha256: str
    """Of `class_vectors.safetensors`."""
    shards: tuple[TaughtShard, ...]
    """In the order of their numbers."""

    def require_classes(self, classnames: Sequence[str], url: str, of: str) -> None:
        """Refuse a teacher of other classes than those of a set or dataset.

        Args:
            url: of the teacher's files.
            of: the set or dataset, in the message.

        Raises:
            UserError: they differ.
        """
        if self.classnames != tuple(classnames):
            raise UserError(
                f"{url}: this teacher tells {len(self.classnames)} classes apart that are not the {len(classnames)} "
                f"of {of}{first_difference(self.classnames, classnames)}; name the files of another in training.teacher"
            )


def probabilities_name(shard: int) -> str:
    """`00000.safetensors`."""
    return f"{shard:05d}.safetensors"


def read_teacher(url: str) -> TeacherFiles:
    """What the folder of a teacher's files tells.

    Raises:
        UserError: it holds none, or not yet those of a whole set.
    """
    found = storage.read_document(storage.join(url, TEACHER), TeacherFiles, AGAIN)
    if found is None:
        raise UserError(
            f"{url}: no teacher's files there, or not all of them; "
            f"write them with `syncclip teacher RUN SET --out {url}`"
        )
    return found


class Teacher:
    """A teacher's files, opened. Safe to share between threads, and after a fork.

    Args:
        url: folder or URL of the files.
        cache: through which they are read, row by row; not that of the set, whose window would close them.

    Raises:
        UserError: see `read_teacher`.
    """

    def __init__(self, url: str, cache: ShardCache) -> None:
        self.url, self.told, self._cache = url, read_teacher(url), cache
        self._shards = {one.shard: one for one in self.told.shards}

    def class_vectors(self) -> Probabilities:
        """(C, D_t) of length 1.

        Raises:
            UserError: they are missing or damaged.
        """
        from safetensors.numpy import load

        place = storage.join(self.url, VECTORS)
        try:
            data = storage.read_bytes(place, sha256=self.told.vectors_sha256)
        except storage.MissingError as error:
            raise _damage(place) from error
        if hashlib.sha256(data).hexdigest() != self.told.vectors_sha256:
            raise _damage(place)
        vectors: Probabilities = load(data)["class_vectors"]
        return vectors

    def of_batch(self, synthetic: ImageSet | None, rows: Sequence[int], real: int) -> Probabilities | None:
        """(N, C) of a batch's images, of which the first are real: zeros for these; None if all are."""
        if synthetic is None:
            return None
        found = np.zeros((len(rows), len(self.told.classnames)), np.float32)
        found[real:] = self.probabilities(synthetic, rows[real:])
        return found

    def probabilities(self, images: ImageSet, rows: Sequence[int]) -> Probabilities:
        """(n, C) of rows of the set that the teacher was asked about; zeros where it could not read an image.

        Raises:
            UserError: a file is missing or damaged.
        """
        assert isinstance(images, ShardSet), "several sets are refused where a run is resolved"
        places, width = images.samples.at(np.asarray(rows, np.int64)), 4 * len(self.told.classnames)
        found = np.empty((len(rows), len(self.told.classnames)), "<f4")
        for number, (shard, place) in enumerate(zip(places.shard.tolist(), places.place.tolist(), strict=True)):
            one = self._shards[shard]
            url = storage.join(self.url, probabilities_name(shard))
            first = one.bytes - width * (one.images - place)  # the numbers end with the file
            try:
                data = self._cache.read(ShardFile(url, one.bytes, one.sha256, one.images), first, width)
            except (UnreadableImageError, storage.MissingError) as error:
                raise _damage(url) from error
            if len(data) != width:
                raise _damage(url)
            found[number] = np.frombuffer(data, "<f4")
        return found


def _damage(place: str) -> UserError:
    return UserError(f"{place}: missing, or not as it was written; {AGAIN}")
