"""Data stream, compared with a bare decode loop, `webdataset` and Ray Data: `python -m benchmarks.loader --help`.

All loaders read the same shards of JPEGs into batches of uint8 tensors, with the same number of workers (processes, and
for our stream also threads). They alternate every half second, and are restarted several times (`benchmarks/turns.py`).
The bare loop decodes and stacks files in memory, without transfer between processes. Our stream reads in random order;
the others read sequentially.

Memory is measured in a streaming process after the same number of batches from datasets of different sizes. The large
dataset has real tables and markers, but its tar files are hard links to the first shard.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import io
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from benchmarks.measuring import in_new_process
from benchmarks.turns import compare
from syncclip import storage
from syncclip.shards.markers import ShardStats, sample_key, shard_name, stats_name, table_name
from syncclip.shards.reader import ShardSet
from syncclip.shards.tables import schema
from syncclip.shards.writer import Sample, write_shard
from syncclip.stream.loader import batches
from syncclip.stream.mixed import MixedStream
from syncclip.stream.sources import MixedSource

BATCH, PER_SHARD = 64, 500
FORK = multiprocessing.get_context("fork")


def jpeg(index: int, pixels: int) -> bytes:
    """Return a JPEG of smooth noise with the file size of a photograph: about 15 KB at 224 pixels."""
    noise = np.random.default_rng(index).integers(0, 256, (pixels // 4, pixels // 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((pixels, pixels), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def write(folder: Path, images: int, pixels: int) -> None:
    """Write a dataset of distinct images."""
    for shard, first in enumerate(range(0, images, PER_SHARD)):
        indices = range(first, min(images, first + PER_SHARD))
        write_shard(str(folder), shard, [Sample(i, i % 10, jpeg(i, pixels), "a photo") for i in indices])


def enlarge(folder: Path, images: int) -> None:
    """Add shards of hard links to a dataset until it has this number of images."""
    stats = ShardStats.model_validate_json((folder / stats_name(0)).read_bytes())
    table = pq.read_table(folder / table_name(0))
    for shard in range(len(list(folder.glob("*.tar"))), images // stats.count):
        indices = [shard * stats.count + row for row in range(stats.count)]
        columns = {**{name: table[name] for name in table.column_names}, "index": pa.array(indices, pa.int64())}
        columns["key"] = pa.array([sample_key(index) for index in indices])
        os.link(folder / shard_name(0), folder / shard_name(shard))
        pq.write_table(pa.table(columns, schema=schema()), folder / table_name(shard))
        checksum = hashlib.sha256((folder / table_name(shard)).read_bytes()).hexdigest()
        marker = stats.model_copy(update={"shard": shard, "table_sha256": checksum})
        storage.write_with_checksum(str(folder / stats_name(shard)), marker.model_dump_json().encode())


def to_tensor(image: Image.Image, _: object = None) -> Tensor:
    """Return a (3, H, W) uint8 tensor."""
    tensor: Tensor = F.pil_to_tensor(image)
    return tensor


def open_stream(folder: Path) -> MixedStream:
    """Return a stream that passes over the dataset in random order, without a cache of decoded images."""
    images = ShardSet(str(folder))
    return MixedStream(
        [MixedSource(images)], [], transform=to_tensor, batch=BATCH, seed=1, base=range(10), data="real", cache_images=0
    )


def by_threads(folder: Path, count: int, passes: int = 1) -> Iterator[Tensor]:
    for _, _, batch in batches(open_stream(folder), passes, threads=count):
        yield batch.images


def by_processes(folder: Path, count: int, passes: int = 1) -> Iterator[Tensor]:
    for _, _, batch in batches(open_stream(folder), passes, processes=count, threads=2 if count else 0):
        yield batch.images


def bare(folder: Path, processes: int, passes: int = 1) -> Iterator[Tensor]:
    """Decode only; processes divide the files among themselves and do not transfer batches."""
    images = ShardSet(str(folder))
    files = [images.read(row) for row in range(len(images))]
    if not processes:
        for _ in range(passes):
            yield from _decoded(files)
        return
    done, reported = FORK.Value("q", 0), 0
    shares = [
        FORK.Process(target=_exhaust, args=(files[number::processes], passes, done), daemon=True)
        for number in range(processes)
    ]
    for share in shares:
        share.start()
    while reported < passes * len(files):
        time.sleep(0.01)  # avoids a wake-up for each batch
        assert not any(share.exitcode for share in shares)
        counted = done.value
        yield torch.empty(counted - reported, 0)
        reported = counted


def _decoded(files: Sequence[bytes]) -> Iterator[Tensor]:
    for first in range(0, len(files), BATCH):
        decoded = [Image.open(io.BytesIO(data)).convert("RGB") for data in files[first : first + BATCH]]
        yield torch.stack([to_tensor(image) for image in decoded])


def _exhaust(files: Sequence[bytes], passes: int, done: Any) -> None:
    torch.set_num_threads(1)
    for _ in range(passes):
        for batch in _decoded(files):
            with done.get_lock():
                done.value += len(batch)


def by_webdataset(folder: Path, processes: int, passes: int = 1) -> Iterator[Tensor]:
    import webdataset

    dataset = (
        webdataset.WebDataset(_tars(folder, passes), shardshuffle=False, empty_check=False)
        .decode("pilrgb")
        .to_tuple("jpg", "cls")
        .map_tuple(to_tensor, int)
        .batched(BATCH, collation_fn=lambda pairs: torch.stack([image for image, _ in pairs]))
    )
    context = "fork" if processes else None
    yield from DataLoader(dataset, batch_size=None, num_workers=processes, multiprocessing_context=context)


def by_ray(folder: Path, workers: int, passes: int = 1) -> Iterator[Tensor]:
    """Read with Ray Data, in a Ray session with one CPU per worker."""
    import ray.data

    from syncclip.runtime.ray_session import ray_session

    with ray_session(cpus=max(1, workers)):
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        for batch in ray.data.read_webdataset(_tars(folder, passes)).iter_batches(
            batch_size=BATCH, batch_format="numpy"
        ):
            yield torch.from_numpy(np.stack(list(batch["jpg"]))).permute(0, 3, 1, 2)


def _tars(folder: Path, passes: int) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.tar")) * passes


OURS = ("threads", "processes")
"""Variants of our loader; with 0 workers, they are identical."""
SIDES: dict[str, Callable[[Path, int, int], Iterator[Tensor]]] = {
    "threads": by_threads,
    "processes": by_processes,
    "bare": bare,
    "webdataset": by_webdataset,
    "ray": by_ray,
}


def images_of(side: str, folder: Path, workers: int, passes: int = 1000) -> Iterator[int]:
    """Yield the number of images in each batch."""
    torch.set_num_threads(1)
    yield from map(len, SIDES[side](folder, workers, passes))


def resident_bytes(folder: Path, batches: int) -> int:
    """Return this process's resident bytes after some batches, excluding memory that the allocator could release."""
    torch.set_num_threads(1)
    stream = open_stream(folder)
    for step in range(batches):
        stream.batch(*divmod(step, stream.steps_per_epoch))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def main(
    images: Annotated[int, typer.Option(help="Number of images.")] = 10_000,
    pixels: Annotated[int, typer.Option(help="Image side length in pixels.")] = 224,
    starts: Annotated[int, typer.Option(help="Number of times that all loaders are started.")] = 8,
    turns: Annotated[int, typer.Option(help="Measurements of each loader per start.")] = 10,
    seconds: Annotated[float, typer.Option(help="Duration of a measurement in seconds.")] = 0.5,
    workers: Annotated[str, typer.Option(help="Numbers of workers.")] = "0,1,2",
    sizes: Annotated[str, typer.Option(help="Dataset sizes for measuring memory.")] = "1000,10000,100000",
) -> None:
    """Print images per second for each loader, ratios of the means, and resident memory by dataset size."""
    with tempfile.TemporaryDirectory() as name:
        folder, large = Path(name, "set"), Path(name, "large")
        write(folder, images, pixels)
        print("| workers | | images/s | slowest and fastest start | speedup with threads | speedup with processes |")
        print("|---|---|---|---|---|---|", flush=True)
        for number in map(int, workers.split(",")):
            runs = {side: partial(images_of, side, folder, number) for side in SIDES}
            rates = compare(runs, starts=starts, turns=turns, seconds=seconds, warm=20 * BATCH)
            mean = {side: statistics.mean(values) for side, values in rates.items()}
            for side, values in rates.items():
                cells = [f"{'ours, ' if side in OURS else ''}{side}", f"{mean[side]:,.0f}"]
                cells += [f"{min(values):,.0f} to {max(values):,.0f}"]
                cells += ["" if side in OURS else f"**{mean[our] / mean[side]:.2f}×**" for our in OURS]
                print(f"| {number} | {' | '.join(cells)} |", flush=True)
        write(large, PER_SHARD, pixels)
        print("\n| images | resident MB |\n|---|---|")
        for size in map(int, sizes.split(",")):
            enlarge(large, size)
            print(f"| {size:,} | {in_new_process(resident_bytes, large, 100) / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
