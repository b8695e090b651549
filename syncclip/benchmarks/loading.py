"""From a benchmark's name, or the path of a folder, to a `Benchmark`."""

from __future__ import annotations

import difflib
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from syncclip import embedded, storage
from syncclip.benchmarks.benchmark import SPLITS, Benchmark, Split
from syncclip.benchmarks.folders import load_folder
from syncclip.benchmarks.settings import BenchmarkSettings
from syncclip.settings import UserError
from syncclip.shards.reader import ImageSet, ShardSet

SHIPPED = {"icons": "icons/benchmark"}
"""Benchmarks that come with the package, and their folders in it."""
PACKED_FILE = "benchmark.json"


class PackedBenchmark(BaseModel):
    """`benchmark.json` of a packed benchmark; beside it lie the shard folders `train/`, `val/` and `test/`."""

    name: str | None = None
    classnames: list[str] = Field(min_length=1)
    template: str = "a photo of a {}."


def load_benchmark(settings: BenchmarkSettings) -> Benchmark:
    """Load a shipped benchmark by name, or a folder: packed shards (local or remote), or local class folders.

    Pictures are read when they are used, not here.

    Raises:
        UserError: nothing of that name, or the folder is not a benchmark; the sentence names what there is.
    """
    if settings.root is None and settings.name in SHIPPED:
        return _load_packed(str(embedded.folder(SHIPPED[settings.name])), settings.name, settings.template)
    place = settings.name if settings.root is None else storage.join(settings.root, settings.name)
    if storage.is_local(place):
        place = str(Path(storage.local_path(place)).expanduser())
        if not Path(place).is_dir():
            raise UserError(_nothing_there(settings, place))
    if storage.exists(storage.join(place, PACKED_FILE)):
        return _load_packed(place, None, settings.template)
    if not storage.is_local(place):
        raise UserError(f"{place}: no {PACKED_FILE} there; a remote benchmark must be packed as shards.")
    return load_folder(Path(place), settings.template, settings.split_seed)


def _load_packed(url: str, name: str | None, template: str | None) -> Benchmark:
    file = storage.join(url, PACKED_FILE)
    if not storage.exists(file):
        raise UserError(f"{file}: missing; the benchmark's data is not where it should be.")
    try:
        packed = PackedBenchmark.model_validate_json(storage.read_bytes(file))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}.") from error
    splits: dict[Split, ImageSet] = {split: ShardSet(storage.join(url, split)) for split in SPLITS}
    return Benchmark(
        name=name or packed.name or url.rstrip("/").rpartition("/")[2],
        classnames=packed.classnames,
        template=template or packed.template,
        splits=splits,
    )


def _nothing_there(settings: BenchmarkSettings, place: str) -> str:
    looks_like_a_path = settings.root is not None or settings.name.startswith(("~", ".")) or "/" in settings.name
    if looks_like_a_path:
        return f"benchmark folder {place} does not exist."
    near = difflib.get_close_matches(settings.name, SHIPPED, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"unknown benchmark {settings.name!r}; {hint}Shipped: {', '.join(sorted(SHIPPED))}; "
        "or give the path of a folder with one subfolder of pictures for each class."
    )
