"""A teacher's files: its probabilities of a synthetic dataset's images, shard by shard, and its class vectors.

`00000.safetensors` contains a tensor (n, C) of float32 with a row for each row of the table of the dataset's first
shard; zeros mean an unreadable image. `teacher.json`, written last, identifies the teacher and the tars.
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
REMEDY = "remove it, and run the `syncclip teacher` that wrote it again"
Probabilities = npt.NDArray[np.float32]


class TaughtShard(NamedTuple):
    """A file of probabilities, and its tar."""

    shard: int
    images: int
    bytes: int
    sha256: str
    tar_sha256: str


class TeacherFiles(Settings):
    """Content of `teacher.json`."""

    format: Literal[1] = 1
    name: str
    """Name of the teacher's run."""
    digest: str
    """Checksum of all that determines the probabilities: the run, its prompts, its CLIP's weights."""
    classnames: Annotated[tuple[ShortText, ...], MANY]
    dim: int
    """Dimension of the class vectors."""
    vectors_sha256: str
    """Checksum of `class_vectors.safetensors`."""
    shards: tuple[TaughtShard, ...]
    """Files of probabilities in the order of their numbers."""

    def require_classes(self, classnames: Sequence[str], url: str, of: str) -> None:
        """Raise a UserError if the classes differ from those of a dataset.

        Args:
            url: URL of the teacher's files.
            of: the dataset, for the message.
        """
        if self.classnames != tuple(classnames):
            raise UserError(
                f"{url}: the teacher's {len(self.classnames)} classes are not the {len(classnames)} of {of}"
                f"{first_difference(self.classnames, classnames)}; set training.teacher to the files of another teacher"
            )


def probabilities_name(shard: int) -> str:
    """`00000.safetensors`."""
    return f"{shard:05d}.safetensors"


def read_teacher(url: str) -> TeacherFiles:
    """The content of `teacher.json` in a folder.

    Raises:
        UserError: it contains no teacher's files, or they are incomplete.
    """
    files = storage.read_document(storage.join(url, TEACHER), TeacherFiles, REMEDY)
    if files is None:
        raise UserError(
            f"{url}: the teacher's files are missing or incomplete; "
            f"write them with `syncclip teacher RUN SET --out {url}`"
        )
    return files


class Teacher:
    """A teacher's files, opened; thread-safe and fork-safe.

    Args:
        url: folder or URL of the files.
        cache: cache for reading them row by row; not the dataset's, whose window would evict them.

    Raises:
        UserError: see `read_teacher`.
    """

    def __init__(self, url: str, cache: ShardCache) -> None:
        self.url, self.told, self._cache = url, read_teacher(url), cache
        self._shards = {shard.shard: shard for shard in self.told.shards}

    def class_vectors(self) -> Probabilities:
        """(C, D_t) unit-length class vectors.

        Raises:
            UserError: they are missing or damaged.
        """
        from safetensors.numpy import load

        url = storage.join(self.url, VECTORS)
        try:
            data = storage.read_bytes(url, sha256=self.told.vectors_sha256)
        except storage.MissingError as error:
            raise _damage(url) from error
        if hashlib.sha256(data).hexdigest() != self.told.vectors_sha256:
            raise _damage(url)
        vectors: Probabilities = load(data)["class_vectors"]
        return vectors

    def of_batch(self, synthetic: ImageSet | None, rows: Sequence[int], real: int) -> Probabilities | None:
        """(N, C) probabilities of a batch, with zeros for the first `real` images; None without synthetic images."""
        if synthetic is None:
            return None
        batch = np.zeros((len(rows), len(self.told.classnames)), np.float32)
        batch[real:] = self.probabilities(synthetic, rows[real:])
        return batch

    def probabilities(self, images: ImageSet, rows: Sequence[int]) -> Probabilities:
        """(n, C) probabilities of rows of the dataset; zeros for unreadable images.

        Raises:
            UserError: a file is missing or damaged.
        """
        assert isinstance(images, ShardSet), "recipes reject a teacher with several datasets"
        samples, width = images.samples.at(np.asarray(rows, np.int64)), 4 * len(self.told.classnames)
        result = np.empty((len(rows), len(self.told.classnames)), "<f4")
        for number, (shard, row) in enumerate(zip(samples.shard.tolist(), samples.place.tolist(), strict=True)):
            file = self._shards[shard]
            url = storage.join(self.url, probabilities_name(shard))
            first = file.bytes - width * (file.images - row)  # the tensor is at the end of the file
            try:
                data = self._cache.read(ShardFile(url, file.bytes, file.sha256, file.images), first, width)
            except (UnreadableImageError, storage.MissingError) as error:
                raise _damage(url) from error
            if len(data) != width:
                raise _damage(url)
            result[number] = np.frombuffer(data, "<f4")
        return result


def _damage(url: str) -> UserError:
    return UserError(f"{url}: missing or damaged; {REMEDY}")
