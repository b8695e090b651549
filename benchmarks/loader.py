"""The stream held against a bare decode loop, `webdataset` and Ray Data: `python -m benchmarks.loader --help`.

All sides read the same shards of JPEGs into batches of uint8 tensors, in turn, by as many workers: processes, and on
our side threads as well. The bare loop has the files in memory, does nothing but decode and stack, and gives nothing to
anybody. Our side draws in a random order of its own; the others read from end to end.

Memory is that of a process that streams, after the same number of batches from sets of different size. The large set
is laid down by hard links: tables and markers are real, the pictures are those of its first shard again.
"""

from __future__ import annotations

import ctypes
import gc
import io
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
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

from syncclip.shards.layout import TABLE, ShardStats, sample_key, shard_name, stats_name, table_name
from syncclip.shards.reader import ShardSet
from syncclip.shards.stream import MixedStream
from syncclip.shards.writer import Sample, write_shard

BATCH, PER_SHARD = 64, 500
FORK = multiprocessing.get_context("fork")


def jpeg(index: int, pixels: int) -> bytes:
    """Smooth noise, of about 15 KB at 224 pixels: as large as a photograph."""
    noise = np.random.default_rng(index).integers(0, 256, (pixels // 4, pixels // 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((pixels, pixels), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def write(folder: Path, images: int, pixels: int) -> None:
    """A set of that many images, each its own."""
    for shard, first in enumerate(range(0, images, PER_SHARD)):
        indices = range(first, min(images, first + PER_SHARD))
        write_shard(str(folder), shard, [Sample(i, i % 10, jpeg(i, pixels), "a photo") for i in indices])


def enlarge(folder: Path, images: int) -> None:
    """Add shards to a set until it has that many images; they take no room for pictures."""
    stats = ShardStats.model_validate_json((folder / stats_name(0)).read_bytes())
    table = pq.read_table(folder / table_name(0))
    for shard in range(len(list(folder.glob("*.tar"))), images // stats.count):
        indices = [shard * stats.count + place for place in range(stats.count)]
        columns = {**{name: table[name] for name in table.column_names}, "index": pa.array(indices, pa.int64())}
        columns["key"] = pa.array([sample_key(index) for index in indices])
        os.link(folder / shard_name(0), folder / shard_name(shard))
        pq.write_table(pa.table(columns, schema=TABLE), folder / table_name(shard))
        (folder / stats_name(shard)).write_text(stats.model_copy(update={"shard": shard}).model_dump_json())


def to_tensor(image: Image.Image, _: object = None) -> Tensor:
    """(3, H, W) uint8."""
    tensor: Tensor = F.pil_to_tensor(image)
    return tensor


def opened(folder: Path, batch: int = BATCH) -> MixedStream:
    """One epoch goes once through the set, in a random order; nothing decoded is kept."""
    images = ShardSet(str(folder))
    return MixedStream(
        images, None, transform=to_tensor, batch=batch, seed=1, base=range(10), data="real", cache_images=0
    )


def by_threads(folder: Path, count: int) -> Iterator[Tensor]:
    for _, _, batch in opened(folder).batches(1, threads=count):
        yield batch.images


def by_processes(folder: Path, count: int) -> Iterator[Tensor]:
    for _, _, batch in opened(folder).batches(1, processes=count, threads=2 if count else 0):
        yield batch.images


def bare(folder: Path, processes: int) -> Iterator[Tensor]:
    """What decoding alone takes; with processes each has a share of the files, and keeps what it decodes to itself."""
    files = files_of(folder)
    if processes:
        shares = [FORK.Process(target=_exhaust, args=(files[number::processes],)) for number in range(processes)]
        for share in shares:
            share.start()
        for share in shares:
            share.join()
            assert share.exitcode == 0
        yield torch.empty(len(files), 0)
    else:
        yield from _decoded(files)


@lru_cache(maxsize=1)
def files_of(folder: Path) -> list[bytes]:
    """All of a set in memory; the round that doesn't count reads them."""
    images = ShardSet(str(folder))
    return [images.read(row) for row in range(len(images))]


def _decoded(files: Sequence[bytes]) -> Iterator[Tensor]:
    for first in range(0, len(files), BATCH):
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in files[first : first + BATCH]]
        yield torch.stack([to_tensor(picture) for picture in pictures])


def _exhaust(files: Sequence[bytes]) -> None:
    torch.set_num_threads(1)
    for _ in _decoded(files):
        pass


def by_webdataset(folder: Path, processes: int) -> Iterator[Tensor]:
    import webdataset

    tars = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
        .decode("pilrgb")
        .to_tuple("jpg", "cls")
        .map_tuple(to_tensor, int)
        .batched(BATCH, collation_fn=lambda pairs: torch.stack([image for image, _ in pairs]))
    )
    context = "fork" if processes else None
    yield from DataLoader(dataset, batch_size=None, num_workers=processes, multiprocessing_context=context)


def by_ray(folder: Path, _: int) -> Iterator[Tensor]:
    """On as many CPUs as its cluster was given."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    for batch in ray.data.read_webdataset(tars).iter_batches(batch_size=BATCH, batch_format="numpy"):
        yield torch.from_numpy(np.stack(list(batch["jpg"]))).permute(0, 3, 1, 2)


OURS = ("threads", "processes")
"""With none of them both are the same."""
SIDES: dict[str, Callable[[Path, int], Iterator[Tensor]]] = {
    "threads": by_threads,
    "processes": by_processes,
    "bare": bare,
    "webdataset": by_webdataset,
    "ray": by_ray,
}


def rate(side: Callable[[Path, int], Iterator[Tensor]], folder: Path, processes: int, images: int) -> float:
    """Images a second, from the first call to the last batch."""
    begun = time.perf_counter()
    seen = sum(len(batch) for batch in side(folder, processes))
    assert images <= seen < images + BATCH, f"{seen} of {images} images"
    return seen / (time.perf_counter() - begun)


def memory(folder: Path, batches: int) -> int:
    """Resident bytes of a new process after so many batches, without what its allocator only keeps for later."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_resident, args=(folder, batches, send))
    process.start()
    found = int(receive.recv())
    process.join()
    return found


def _resident(folder: Path, batches: int, answer: Any) -> None:
    torch.set_num_threads(1)
    stream = opened(folder)
    for place in range(batches):
        stream.batch(*divmod(place, stream.steps_per_epoch))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    answer.send(psutil.Process().memory_info().rss)


def main(
    images: Annotated[int, typer.Option(help="Images of the set.")] = 5000,
    pixels: Annotated[int, typer.Option(help="Side of an image.")] = 224,
    repetitions: Annotated[int, typer.Option(help="Rounds, in each of which every side runs once.")] = 7,
    processes: Annotated[str, typer.Option(help="Numbers of workers.")] = "0,1,2",
    sizes: Annotated[str, typer.Option(help="Sizes of sets whose memory is measured.")] = "1000,10000,100000",
    folder: Annotated[str | None, typer.Option(help="Where sets are laid; a temporary folder by default.")] = None,
) -> None:
    """Print images a second of each side with ours' ratio to it, and resident memory by the size of the set."""
    from syncclip.cluster import ray_session

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write(Path(place, "set"), images, pixels)
        print("| workers | side | images/s | our threads to it | our processes |\n|---|---|---|---|---|", flush=True)
        for number in map(int, processes.split(",")):
            with ray_session(cpus=max(1, number)):
                compared(Path(place, "set"), number, images, repetitions)
        write(Path(place, "large"), PER_SHARD, pixels)
        print("\n| images of the set | resident MB |\n|---|---|")
        for size in map(int, sizes.split(",")):
            enlarge(Path(place, "large"), size)
            print(f"| {size:,} | {memory(Path(place, 'large'), 100) / 1e6:.1f} |", flush=True)


def compared(folder: Path, processes: int, images: int, repetitions: int) -> None:
    """One table: every side in turn, one round that doesn't count, then medians and medians of ratios in a round."""
    rounds: list[dict[str, float]] = []
    for turn in range(repetitions + 1):
        names = list(SIDES) if turn % 2 else list(reversed(SIDES))
        found = {name: rate(SIDES[name], folder, processes, images) for name in names}
        rounds += [found] if turn else []
        print(f"round {turn}: " + ", ".join(f"{name} {speed:,.0f}" for name, speed in found.items()), file=sys.stderr)
    for name in SIDES:
        speed = statistics.median(found[name] for found in rounds)
        gains = [statistics.median(found[our] / found[name] for found in rounds) for our in OURS]
        cells = [f"{'ours, ' if name in OURS else ''}{name}", f"{speed:,.0f}"]
        cells += ["", ""] if name in OURS else [f"**{gain:.2f}x**" for gain in gains]
        print(f"| {processes} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
