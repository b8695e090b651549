"""`syncclip classify --actors` beside a bare loop that decodes and encodes, over shards of small images.

    python -m benchmarks.classify

Both use two processes of one thread each. The loop reads a tar, decodes in threads and takes the largest logit; it
writes nothing, knows no bad image and can not be killed. Each side runs over a few and over many shards, by turns: what
an image costs is the difference, what a start costs the rest.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
import torch
import typer
from PIL import Image

from syncclip import Recipe, jobs, load

SHARD, BATCH, PROCESSES, SIDE = 500, 64, 2, 256
HERE = Path(__file__).parents[1]
LOOP = "import sys; from benchmarks.classify import bare; bare(sys.argv[1], sys.argv[2:])"


class Cost(NamedTuple):
    """Of a command and all processes that it starts."""

    cpu: float
    """Seconds."""
    wall: float
    largest: float
    """MB of its largest process, at most."""


def bare(run: str, tars: list[str]) -> None:
    """Decode and encode all images, as fast as one process can."""
    torch.set_num_threads(1)
    model = load(run, device="cpu")

    def pixels(content: bytes) -> torch.Tensor:
        found: torch.Tensor = model.method.clip.backbone.preprocess(Image.open(io.BytesIO(content)).convert("RGB"))
        return found

    with torch.no_grad(), ThreadPoolExecutor(4) as threads:
        for name in tars:
            with tarfile.open(name) as tar:
                contents = [file.read() for member in tar if (file := tar.extractfile(member))]
            batches = [contents[first : first + BATCH] for first in range(0, len(contents), BATCH)]
            ahead = [threads.submit(pixels, one) for one in batches[0]]
            for following in [*batches[1:], []]:
                ready, ahead = ahead, [threads.submit(pixels, one) for one in following]
                model.method.logits(torch.stack([one.result() for one in ready])).max(1)


def images(folder: Path, count: int) -> None:
    """Tars of `SHARD` JPEGs of noise."""
    folder.mkdir()
    noise = torch.Generator().manual_seed(1)
    for shard in range(count // SHARD):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number in range(SHARD):
                coarse = torch.randint(0, 256, (16, 16, 3), generator=noise, dtype=torch.uint8).numpy()
                data = io.BytesIO()
                Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
                header = tarfile.TarInfo(f"{number:09}.jpg")
                header.size = data.tell()
                data.seek(0)
                tar.addfile(header, data)


def cost(commands: list[list[str]]) -> Cost:
    """Run commands side by side to their end."""
    begun, seconds, largest = time.perf_counter(), dict[tuple[int, float], float](), 0
    running = [subprocess.Popen(one, cwd=HERE, stderr=subprocess.DEVNULL) for one in commands]
    while any(one.poll() is None for one in running):
        for parent in running:
            with contextlib.suppress(psutil.Error):
                first = psutil.Process(parent.pid)
                for process in [first, *first.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        times = process.cpu_times()
                        seconds[process.pid, process.create_time()] = times.user + times.system
                        largest = max(largest, process.memory_info().rss)
        time.sleep(0.2)
    assert all(one.returncode == 0 for one in running)
    return Cost(sum(seconds.values()), time.perf_counter() - begun, largest / 1e6)


def main(
    few: Annotated[int, typer.Option(help="Images of the short runs.")] = 1_000,
    many: Annotated[int, typer.Option(help="Images of the long runs.")] = 20_000,
    turns: Annotated[int, typer.Option(help="Of each side and size.")] = 3,
) -> None:
    """Show what an image and a start cost, and the largest process."""
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        run = jobs.run_here(Recipe.load("travel", ["training.method=zeroshot"]), str(folder / "run")).url
        found: dict[tuple[str, int], list[Cost]] = {}
        for count in (few, many):
            images(folder / str(count), count)
        for _ in range(turns):
            for count in (few, many):
                tars = sorted(str(tar) for tar in (folder / str(count)).glob("*.tar"))
                loop = [sys.executable, "-c", LOOP]
                shares = [[*loop, run, *tars[first::PROCESSES]] for first in range(PROCESSES)]
                ours = [sys.executable, "-m", "syncclip", "classify", run, str(folder / str(count))]
                out = folder / "answers"
                ours += ["--actors", str(PROCESSES), "--batch", str(BATCH), "--out", str(out)]
                for side, commands in (("bare", shares), ("classify", [ours])):
                    found.setdefault((side, count), []).append(cost(commands))
                    shutil.rmtree(out, ignore_errors=True)
        show({side: [found[side, count] for count in (few, many)] for side in ("bare", "classify")}, few, many)


def show(found: dict[str, list[list[Cost]]], few: int, many: int) -> None:
    """Print the table; of several turns, the least of each figure."""
    print("| side | CPU ms an image | images/s | start, CPU s | largest process, MB: few images | many |")
    print("|---|---|---|---|---|---|")
    for side, (of_few, of_many) in found.items():
        low, high = (Cost(*map(min, zip(*turns, strict=True))) for turns in (of_few, of_many))
        each, rate = (high.cpu - low.cpu) / (many - few), (many - few) / (high.wall - low.wall)
        start = low.cpu - few * each
        print(f"| {side} | {1e3 * each:.2f} | {rate:.0f} | {start:.1f} | {low.largest:.0f} | {high.largest:.0f} |")


if __name__ == "__main__":
    typer.run(main)
