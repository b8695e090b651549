"""`syncclip classify --actors`, compared with a bare loop that decodes and encodes, on shards of small images.

    python -m benchmarks.classify

Both use two processes with one thread each. The loop reads tar files, decodes in threads and takes the argmax of the
logits, without output, error handling or resumption. The difference between runs on few and on many images is the cost
per image; the remainder is the startup cost.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from benchmarks.measuring import compare, marginal
from syncclip import Recipe, jobs, load

SHARD, BATCH, PROCESSES, SIDE = 500, 64, 2, 256
LOOP = "import sys; from benchmarks.classify import bare; bare(sys.argv[1], sys.argv[2:])"


def bare(run: str, tars: list[str]) -> None:
    """Decode and encode all images in this process."""
    torch.set_num_threads(1)
    model = load(run, device="cpu")

    def decoded(content: bytes) -> torch.Tensor:
        pixels: torch.Tensor = model.method.clip.backbone.preprocess(Image.open(io.BytesIO(content)).convert("RGB"))
        return pixels

    with torch.no_grad(), ThreadPoolExecutor(4) as threads:
        for name in tars:
            with tarfile.open(name) as tar:
                contents = [file.read() for member in tar if (file := tar.extractfile(member))]
            batches = [contents[first : first + BATCH] for first in range(0, len(contents), BATCH)]
            ahead = [threads.submit(decoded, content) for content in batches[0]]
            for following in [*batches[1:], []]:
                ready, ahead = ahead, [threads.submit(decoded, content) for content in following]
                model.method.logits(torch.stack([future.result() for future in ready])).max(1)


def write_tars(folder: Path, images: int) -> None:
    """Write tar files with `SHARD` JPEGs of noise each."""
    folder.mkdir()
    noise = torch.Generator().manual_seed(1)
    for shard in range(images // SHARD):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number in range(SHARD):
                coarse = torch.randint(0, 256, (16, 16, 3), generator=noise, dtype=torch.uint8).numpy()
                data = io.BytesIO()
                Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
                header = tarfile.TarInfo(f"{number:09}.jpg")
                header.size = data.tell()
                data.seek(0)
                tar.addfile(header, data)


def main(
    few: Annotated[int, typer.Option(help="Number of images in the short runs.")] = 1_000,
    many: Annotated[int, typer.Option(help="Number of images in the long runs.")] = 20_000,
    repetitions: Annotated[int, typer.Option(help="Runs per program and size; the minimum is reported.")] = 3,
) -> None:
    """Print the cost per image, the startup cost, and the memory of the largest process."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "out"
        run = jobs.run_here(Recipe.load("travel", ["training.method=zeroshot"]), str(folder / "run")).url
        for images in (few, many):
            write_tars(folder / str(images), images)

        def loop(images: int) -> list[list[str]]:
            tars = sorted(str(tar) for tar in (folder / str(images)).glob("*.tar"))
            return [[sys.executable, "-c", LOOP, run, *tars[first::PROCESSES]] for first in range(PROCESSES)]

        def ours(images: int) -> list[list[str]]:
            shutil.rmtree(out, ignore_errors=True)
            options = ["--actors", str(PROCESSES), "--batch", str(BATCH), "--out", str(out)]
            return [[sys.executable, "-m", "syncclip", "classify", run, str(folder / str(images)), *options]]

        costs = compare({"bare": loop, "classify": ours}, (few, many), repetitions)
    print("| program | CPU ms per image | images/s | start, CPU s | largest process, MB: few images | many |")
    print("|---|---|---|---|---|---|")
    for side, (low, high) in costs.items():
        each, start = marginal(few, low, many, high)
        times = f"{1e3 * each.cpu:.2f} | {1 / each.wall:.0f} | {start.cpu:.1f}"
        print(f"| {side} | {times} | {low.memory:.0f} | {high.memory:.0f} |")


if __name__ == "__main__":
    typer.run(main)
