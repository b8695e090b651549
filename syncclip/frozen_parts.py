"""What stays the same while runs follow each other in one process, done once: benchmarks, the CLIP, tested pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from syncclip.benchmarks import Benchmark, BenchmarkSettings, load_benchmark
from syncclip.benchmarks.benchmark import Pictures, Split
from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.transforms import cut

TESTED: tuple[Split, ...] = ("val", "test")


class FrozenParts:
    """Loads what recipes name, and keeps it while they name the same. Runs are the same bit for bit either way.

    Benchmarks are kept as lists of pictures, one CLIP with all its weights, and of tested pictures as many as have
    room: decoded, and cut to the size that the CLIP sees. Not for several threads.

    Args:
        keep_bytes: memory that kept pictures may take; those beyond are decoded each time.
    """

    def __init__(self, keep_bytes: int = 0) -> None:
        self.loads: dict[str, int] = {"benchmark": 0, "clip": 0, "picture": 0}
        """What was really done, by kind."""
        self._keeps, self._room = keep_bytes > 0, keep_bytes
        self._benchmarks: dict[str, Benchmark] = {}
        self._clip: tuple[BackboneSettings, PromptedClip] | None = None
        self._pictures: dict[tuple[str, str], dict[int, Image.Image]] = {}

    def benchmark(self, settings: BenchmarkSettings) -> Benchmark:
        """The benchmark, as `load_benchmark` has it."""
        key = _key(settings)
        if key not in self._benchmarks:
            self.loads["benchmark"] += 1
            self._benchmarks[key] = load_benchmark(settings)
        return self._benchmarks[key]

    def clip(self, settings: BackboneSettings) -> PromptedClip:
        """The CLIP, where the last run left it: whoever builds a method moves it to its device. Only one is kept."""
        if self._clip is None or self._clip[0] != settings:
            self._clip = None  # its memory is needed for the next
            self._pictures.clear()
            self.loads["clip"] += 1
            self._clip = settings, PromptedClip(load_backbone(settings))
        return self._clip[1]

    def prepared(self, benchmark: Benchmark, settings: BenchmarkSettings, backbone: Backbone) -> Benchmark:
        """The same benchmark, of whose tested splits each picture is decoded once and comes cut to the CLIP's size.

        What the CLIP's `preprocess` makes of the cut ones is the same to the bit.
        """
        if not self._keeps:
            return benchmark
        tested: Mapping[Split, Pictures] = {
            split: KeptPictures(self, pictures, self._pictures.setdefault((_key(settings), split), {}), backbone)
            for split, pictures in benchmark.splits.items()
            if split in TESTED
        }
        return replace(benchmark, splits={**benchmark.splits, **tested})

    def room_for(self, image: Image.Image) -> bool:
        """Whether a picture may be kept; its bytes are then taken."""
        size = 3 * image.width * image.height
        if size > self._room:
            return False
        self._room -= size
        return True


class KeptPictures:
    """Pictures of which those that have room are decoded once. The first ones are kept: they are read in order."""

    def __init__(
        self, frozen: FrozenParts, pictures: Pictures, kept: dict[int, Image.Image], backbone: Backbone
    ) -> None:
        self._frozen, self._pictures, self._kept, self._backbone = frozen, pictures, kept, backbone
        self.labels = pictures.labels

    def __len__(self) -> int:
        return len(self._pictures)

    def rows_of(self, label: int) -> npt.NDArray[np.int64]:
        """The rows that show a class, ascending."""
        return self._pictures.rows_of(label)

    def read(self, row: int) -> bytes:
        """The file's bytes, as they are."""
        return self._pictures.read(row)

    def name(self, row: int) -> str:
        """What a picture is called in a message."""
        return self._pictures.name(row)

    def image(self, row: int) -> Image.Image:
        """The RGB picture of a row, cut to the CLIP's size."""
        if row in self._kept:
            return self._kept[row]
        self._frozen.loads["picture"] += 1
        image = cut(self._pictures.image(row), self._backbone.preprocess)
        if self._frozen.room_for(image):
            self._kept[row] = image
        return image


def _key(settings: BenchmarkSettings) -> str:
    """What decides a benchmark; which of its pictures are the shots is asked of it later."""
    return settings.model_copy(update={"shots": 1, "seed": None}).model_dump_json()
