"""Reader for teacher files: soft labels for a synthetic dataset's images, and the teacher's class vectors.

`00000.safetensors` contains an (n, C) float32 tensor with one row for each row of the first shard's table. The
rows of unreadable images are zero. `teacher.json`, written last, identifies the teacher and the tars.
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
REMEDY = "remove the file and run the same `syncclip teacher` command again"
Probabilities = npt.NDArray[np.float32]


class TeacherShard(NamedTuple):
    """A soft-label file and the tar of the corresponding images."""

    shard: int
    images: int
    bytes: int
    sha256: str
    tar_sha256: str


class TeacherFiles(Settings):
    """Content of `teacher.json`."""

    format: Literal[1] = 1
    name: str
    """Name of the teacher run."""
    digest: str
    """Checksum of everything that determines the soft labels: the run, its prompts and its CLIP weights."""
    classnames: Annotated[tuple[ShortText, ...], MANY]
    dim: int
    """Dimensionality of the class vectors."""
    vectors_sha256: str
    """Checksum of `class_vectors.safetensors`."""
    shards: tuple[TeacherShard, ...]
    """Soft-label files, in ascending order of shard numbers."""

    def require_classes(self, classnames: Sequence[str], url: str, of: str) -> None:
        """Raise a UserError whose message starts with `url` if the classes differ from `classnames`, the classes of
        the dataset `of`."""
        if self.classnames != tuple(classnames):
            raise UserError(
                f"{url}: the teacher's {len(self.classnames)} classes differ from the {len(classnames)} classes of {of}"
                f"{first_difference(self.classnames, classnames)}; set training.teacher to a matching teacher"
            )


def probabilities_name(shard: int) -> str:
    """Return the name of a shard's soft-label file, such as `00000.safetensors`."""
    return f"{shard:05d}.safetensors"


def read_teacher(url: str) -> TeacherFiles:
    """Read a folder's `teacher.json`; raise a `UserError` if the teacher files are missing or incomplete."""
    files = storage.read_document(storage.join(url, TEACHER), TeacherFiles, REMEDY)
    if files is None:
        command = f"`syncclip teacher RUN SET --out {url}`"
        raise UserError(f"{url}: the teacher files are missing or incomplete; create them with {command}")
    return files


class Teacher:
    """Soft labels and class vectors, read from a teacher's files; thread-safe and fork-safe.

    Args:
        url: folder or URL of the teacher files.
        cache: cache for single rows; must not be the dataset's cache, whose window would evict the files.

    Raises:
        UserError: see `read_teacher`.
    """

    def __init__(self, url: str, cache: ShardCache) -> None:
        self.url, self.files, self._cache = url, read_teacher(url), cache
        self._shards = {shard.shard: shard for shard in self.files.shards}

    def class_vectors(self) -> Probabilities:
        """Read the (C, D_t) class vectors of unit length; raise a `UserError` if the file is missing or corrupt."""
        from safetensors.numpy import load

        url = storage.join(self.url, VECTORS)
        try:
            data = storage.read_bytes(url, sha256=self.files.vectors_sha256)
        except storage.MissingError as error:
            raise _damage(url) from error
        if hashlib.sha256(data).hexdigest() != self.files.vectors_sha256:
            raise _damage(url)
        vectors: Probabilities = load(data)["class_vectors"]
        return vectors

    def of_batch(self, synthetic: ImageSet, rows: Sequence[int], real: int) -> Probabilities:
        """Return a batch's (N, C) soft labels; the first `real` rows, which belong to real images, are zero.

        Raises:
            UserError: a file is missing or corrupt.
        """
        assert isinstance(synthetic, ShardSet), "recipe validation rejects a teacher with several datasets"
        samples = synthetic.samples.at(np.asarray(rows[real:], np.int64))
        width = 4 * len(self.files.classnames)
        result = np.zeros((len(rows), len(self.files.classnames)), "<f4")
        for number, (shard, row) in enumerate(zip(samples.shard.tolist(), samples.place.tolist(), strict=True), real):
            file = self._shards[shard]
            url = storage.join(self.url, probabilities_name(shard))
            start = file.bytes - width * (file.images - row)  # the tensor is at the end of the file
            try:
                data = self._cache.read(ShardFile(url, file.bytes, file.sha256, file.images), start, width)
            except (UnreadableImageError, storage.MissingError) as error:
                raise _damage(url) from error
            if len(data) != width:
                raise _damage(url)
            result[number] = np.frombuffer(data, "<f4")
        return result


def _damage(url: str) -> UserError:
    return UserError(f"{url}: the teacher file is missing or corrupt; {REMEDY}")
