"""CPU time of `syncclip synth`, compared with a plain batched diffusers loop: `python -m benchmarks.generation`.

Both use two processes with one thread each, the bundled generator, and the same batches, steps, guidance and seeds.
The loop encodes the prompts of every batch and saves JPEGs, without shards, provenance, error handling or resumption.
The difference between runs with few and with many images is the cost per image; the remainder is the startup cost.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.measuring import compare, marginal
from syncclip.embedded import FOLDER
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.plan import Plan
from syncclip.synthetic_sets import prepare

PROCESSES = 2
LOOP = "import sys; from benchmarks.generation import bare; bare(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"


def settings(images: int) -> list[str]:
    """Return recipe overrides for this number of images per class, without filters."""
    return [f"synthesis.images_per_class={images}", "synthesis.filters=[]", f"synthesis.actors={PROCESSES}"]


def plan_of(images: int) -> Plan:
    return prepare.plan(Recipe.load("travel", settings(images)))


def bare(images: int, process: int, folder: str) -> None:
    """Generate the images of one process: every `PROCESSES`-th batch."""
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(1)
    plan = plan_of(images)
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER / "icons/generator", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    Path(folder).mkdir(exist_ok=True)
    for first in range(process * plan.batch, plan.total, PROCESSES * plan.batch):
        entries = [plan.entry(index) for index in range(first, min(first + plan.batch, plan.total))]
        output = pipeline(
            [entry.prompt for entry in entries],
            num_inference_steps=plan.generator.steps,
            guidance_scale=plan.generator.guidance,
            generator=[torch.Generator().manual_seed(entry.seed) for entry in entries],
        )
        for entry, image in zip(entries, output.images, strict=True):
            image.save(f"{folder}/{entry.index}.jpg", quality=plan.jpeg_quality, subsampling=0)


def main(
    few: Annotated[int, typer.Option(help="Images per class in the short runs.")] = 32,
    many: Annotated[int, typer.Option(help="Images per class in the long runs.")] = 128,
    repetitions: Annotated[int, typer.Option(help="Runs per program and size; the minimum is reported.")] = 3,
) -> None:
    """Print the cost per image and the startup cost."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"

        def loop(images: int) -> list[list[str]]:
            shutil.rmtree(out, ignore_errors=True)
            return [[sys.executable, "-c", LOOP, str(images), str(n), str(out)] for n in range(PROCESSES)]

        def synth(images: int) -> list[list[str]]:
            shutil.rmtree(out, ignore_errors=True)
            return [[sys.executable, "-m", "syncclip", "synth", "travel", "--out", str(out), *settings(images)]]

        costs = compare({"loop": loop, "synth": synth}, (few, many), repetitions)
    classes = plan_of(few).classes
    print("| program | CPU ms per image | start, CPU s | images/s |\n|---|---|---|---|")
    for side, (low, high) in costs.items():
        each, start = marginal(few * classes, low, many * classes, high)
        print(f"| {side} | {1e3 * each.cpu:.2f} | {start.cpu:.1f} | {1 / each.wall:.1f} |")


if __name__ == "__main__":
    typer.run(main)
