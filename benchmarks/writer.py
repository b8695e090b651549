"""Writing shards, held against `webdataset.ShardWriter` on the same samples: `python -m benchmarks.writer --help`.

Ours makes the table and the marker too. Two races, sides in turn: until the call returns (ours without its fsync),
and until the bytes are on the disk (theirs with an fsync of file and folder).
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import typer
import webdataset
from PIL import Image

from syncclip.shards.layout import sample_key
from syncclip.shards.writer import Sample, write_shard


def samples_of(count: int, pixels: int) -> list[Sample]:
    """JPEGs of smooth noise, with a prompt and provenance as synthesis writes them."""
    chance = np.random.default_rng(0)
    found = []
    for index in range(count):
        noise = chance.integers(0, 256, (max(1, pixels // 8),) * 2 + (3,), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((pixels, pixels), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
        scores = {"blank": 41.25, "clip_score": 0.2718}
        provenance = {"class": "fir tree", "image": index, "attempt": 0, "seed": 2**31 + index, "scores": scores}
        found.append(Sample(index, index % 100, file.getvalue(), "a photo of a fir tree.", provenance))
    return found


def ours(folder: Path, samples: Sequence[Sample], durable: bool) -> None:
    if durable:
        write_shard(str(folder), 0, samples)
    else:
        with patch("os.fsync"):
            write_shard(str(folder), 0, samples)


def theirs(folder: Path, samples: Sequence[Sample], durable: bool) -> None:
    pattern = str(folder / "%05d.tar")
    with webdataset.ShardWriter(pattern, verbose=0, encoder=False, mtime=0, post=sync if durable else None) as writer:
        for sample in samples:
            members = {"cls": str(sample.label).encode(), "jpg": sample.image_bytes, "txt": sample.text.encode()}
            note = json.dumps(dict(sample.provenance), sort_keys=True).encode()
            writer.write({"__key__": sample_key(sample.index), **members, "json": note})


def sync(name: str) -> None:
    """Bring a file and its name to the disk."""
    for place in (Path(name), Path(name).parent):
        handle = os.open(place, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def race(sides: Sequence[Callable[[], None]], repetitions: int) -> list[list[float]]:
    """Seconds of each side, in turn, after one run that doesn't count."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(repetitions + 1):
        for side, found in zip(sides, times, strict=True):
            begun = time.perf_counter()
            side()
            if turn:
                found.append(time.perf_counter() - begun)
    return times


def main(
    folder: Annotated[str | None, typer.Option(help="Where to write; a new temporary folder by default.")] = None,
    repetitions: Annotated[int, typer.Option(help="Runs of each side.")] = 30,
) -> None:
    """Print the times of both sides and their ratio."""
    print("| images | pixels | durable | ours | theirs | gain |\n|---|---|---|---|---|---|")
    for count, pixels in ((128, 64), (64, 512), (1000, 64)):
        samples = samples_of(count, pixels)
        for durable in (False, True):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                mine, other = (Path(place) / name for name in ("ours", "theirs"))
                other.mkdir()
                sides = [partial(ours, mine, samples, durable), partial(theirs, other, samples, durable)]
                a, b = map(statistics.median, race(sides, repetitions))
                assert (mine / "00000.tar").read_bytes() == (other / "00000.tar").read_bytes()
            print(f"| {count} | {pixels} | {durable} | {a * 1e3:.1f} ms | {b * 1e3:.1f} ms | **{b / a:.2f}x** |")


if __name__ == "__main__":
    typer.run(main)
