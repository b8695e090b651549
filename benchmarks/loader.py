"""The stream compared with a bare decode loop, `webdataset` and Ray Data: `python -m benchmarks.loader --help`.

All sides read the same shards of JPEGs into batches of uint8 tensors, by as many workers: processes, and on our side
threads as well. They alternate every half second, and are all restarted several times (`benchmarks/turns.py`). The
bare loop has the files in memory, does nothing but decode and stack, and hands nothing over. Our side reads in a
random order of its own; the others read sequentially.

Memory is that of a process that streams, after the same number of batches from sets of different size. The large set
consists of hard links: tables and markers are real, the images are those of its first shard.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import io
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from benchmarks.turns import Compared, compare
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
    """Add shards to a set until it has that many images; their images take no space."""
    stats = ShardStats.model_validate_json((folder / stats_name(0)).read_bytes())
    table = pq.read_table(folder / table_name(0))
    for shard in range(len(list(folder.glob("*.tar"))), images // stats.count):
        indices = [shard * stats.count + place for place in range(stats.count)]
        columns = {**{name: table[name] for name in table.column_names}, "index": pa.array(indices, pa.int64())}
        columns["key"] = pa.array([sample_key(index) for index in indices])
        os.link(folder / shard_name(0), folder / shard_name(shard))
        pq.write_table(pa.table(columns, schema=schema()), folder / table_name(shard))
        digest = hashlib.sha256((folder / table_name(shard)).read_bytes()).hexdigest()
        marker = stats.model_copy(update={"shard": shard, "table_sha256": digest})
        storage.write_with_checksum(str(folder / stats_name(shard)), marker.model_dump_json().encode())


def to_tensor(image: Image.Image, _: object = None) -> Tensor:
    """(3, H, W) uint8."""
    tensor: Tensor = F.pil_to_tensor(image)
    return tensor


def opened(folder: Path, batch: int = BATCH) -> MixedStream:
    """One epoch goes once through the set, in a random order; nothing decoded is kept."""
    images = ShardSet(str(folder))
    return MixedStream(
        [MixedSource(images)], [], transform=to_tensor, batch=batch, seed=1, base=range(10), data="real", cache_images=0
    )


def by_threads(folder: Path, count: int, passes: int = 1) -> Iterator[Tensor]:
    for _, _, batch in batches(opened(folder), passes, threads=count):
        yield batch.images


def by_processes(folder: Path, count: int, passes: int = 1) -> Iterator[Tensor]:
    for _, _, batch in batches(opened(folder), passes, processes=count, threads=2 if count else 0):
        yield batch.images


def bare(folder: Path, processes: int, passes: int = 1) -> Iterator[Tensor]:
    """What decoding alone takes; with processes each has a share of the files, and keeps what it decodes to itself."""
    files = files_of(folder)
    if not processes:
        for _ in range(passes):
            yield from _decoded(files)
        return
    done, told = FORK.Value("q", 0), 0
    shares = [
        FORK.Process(target=_exhaust, args=(files[number::processes], passes, done), daemon=True)
        for number in range(processes)
    ]
    for share in shares:
        share.start()
    while told < passes * len(files):
        time.sleep(0.01)  # nobody is woken for a batch
        assert not any(share.exitcode for share in shares)
        counted = done.value  # read once: the shares go on counting
        yield torch.empty(counted - told, 0)
        told = counted


def files_of(folder: Path) -> list[bytes]:
    """All of a set in memory."""
    images = ShardSet(str(folder))
    return [images.read(row) for row in range(len(images))]


def _decoded(files: Sequence[bytes]) -> Iterator[Tensor]:
    for first in range(0, len(files), BATCH):
        decoded = [Image.open(io.BytesIO(data)).convert("RGB") for data in files[first : first + BATCH]]
        yield torch.stack([to_tensor(one) for one in decoded])


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
    """On a Ray of its own with as many CPUs."""
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
"""With none of them both are the same."""
SIDES: dict[str, Callable[[Path, int, int], Iterator[Tensor]]] = {
    "threads": by_threads,
    "processes": by_processes,
    "bare": bare,
    "webdataset": by_webdataset,
    "ray": by_ray,
}


def images_of(side: str, folder: Path, workers: int, passes: int = 1000) -> Iterator[int]:
    """The number of images in each batch."""
    torch.set_num_threads(1)
    yield from map(len, SIDES[side](folder, workers, passes))


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
    images: Annotated[int, typer.Option(help="Images of the set.")] = 10_000,
    pixels: Annotated[int, typer.Option(help="Side of an image.")] = 224,
    starts: Annotated[int, typer.Option(help="How often all sides are restarted.")] = 8,
    turns: Annotated[int, typer.Option(help="Turns of each side in one start.")] = 10,
    seconds: Annotated[float, typer.Option(help="Of one turn.")] = 0.5,
    workers: Annotated[str, typer.Option(help="Numbers of workers.")] = "0,1,2",
    sizes: Annotated[str, typer.Option(help="Sizes of sets whose memory is measured.")] = "1000,10000,100000",
    folder: Annotated[str | None, typer.Option(help="Where sets are written; a temporary folder by default.")] = None,
) -> None:
    """Print images per second of each side, our ratio to it, and resident memory by the size of the set."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write(Path(place, "set"), images, pixels)
        print("| workers | side | images/s | slowest and fastest start | threads to it | processes to it |")
        print("|---|---|---|---|---|---|", flush=True)
        for number in map(int, workers.split(",")):
            runs = {name: partial(images_of, name, Path(place, "set"), number) for name in SIDES}
            table(number, compare(runs, starts=starts, turns=turns, seconds=seconds, warm=20 * BATCH, tell=_tell))
        write(Path(place, "large"), PER_SHARD, pixels)
        print("\n| images of the set | resident MB |\n|---|---|")
        for size in map(int, sizes.split(",")):
            enlarge(Path(place, "large"), size)
            print(f"| {size:,} | {memory(Path(place, 'large'), 100) / 1e6:.1f} |", flush=True)


def table(workers: int, found: Mapping[str, Compared]) -> None:
    """One row per side; a ratio is that of the means over all starts."""
    for name, side in found.items():
        cells = [f"{'ours, ' if name in OURS else ''}{name}", f"{side.mean:,.0f}"]
        cells += [f"{min(side.starts):,.0f} {max(side.starts):,.0f}"]
        cells += ["" if name in OURS else f"**{found[our].mean / side.mean:.2f}x**" for our in OURS]
        print(f"| {workers} | {' | '.join(cells)} |", flush=True)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
