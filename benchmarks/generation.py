"""`syncclip synth` beside a plain batched loop of diffusers, in processor time: `python -m benchmarks.generation`.

Both use two processes of one thread each, the embedded generator, and the same batches, steps, guidance and seeds. The
loop encodes its prompts with every batch, saves JPEGs, and knows nothing of shards, provenance, errors or kills. Each
side makes few and many images, by turns: what an image costs is the difference, what a start costs the rest.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.classify import Cost, cost
from syncclip.embedded import FOLDER
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.plan import Plan
from syncclip.synthetic_sets import prepare

PROCESSES = 2
LOOP = "import sys; from benchmarks.generation import bare; bare(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"


def settings(images: int) -> list[str]:
    """Overrides of the recipe for so many images of each class, unfiltered."""
    return [f"synthesis.images_per_class={images}", "synthesis.filters=[]", f"synthesis.actors={PROCESSES}"]


def plan_of(images: int) -> Plan:
    """What is generated."""
    return prepare.plan(Recipe.load("travel", settings(images)))


def bare(images: int, process: int, folder: str) -> None:
    """The share of one process: every second batch."""
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(1)
    plan = plan_of(images)
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER / "icons/generator", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    Path(folder).mkdir(exist_ok=True)
    for first in range(process * plan.batch, plan.total, PROCESSES * plan.batch):
        entries = [plan.entry(index) for index in range(first, min(first + plan.batch, plan.total))]
        made = pipeline(
            [entry.prompt for entry in entries],
            num_inference_steps=plan.generator.steps,
            guidance_scale=plan.generator.guidance,
            generator=[torch.Generator().manual_seed(entry.seed) for entry in entries],
        )
        for entry, image in zip(entries, made.images, strict=True):
            image.save(f"{folder}/{entry.index}.jpg", quality=plan.jpeg_quality, subsampling=0)


def main(
    few: Annotated[int, typer.Option(help="Images of each class in the short runs: some shards for each actor.")] = 32,
    many: Annotated[int, typer.Option(help="Images of each class in the long runs.")] = 128,
    turns: Annotated[int, typer.Option(help="Of each side and amount.")] = 3,
) -> None:
    """Show what an image and a start cost on each side; of several turns, the least of each figure."""
    found: dict[tuple[str, int], list[Cost]] = {}
    with tempfile.TemporaryDirectory() as there:
        for _ in range(turns):
            for images in (few, many):
                out = Path(there) / "out"
                loop = [[sys.executable, "-c", LOOP, str(images), str(one), str(out)] for one in range(PROCESSES)]
                synth = [sys.executable, "-m", "syncclip", "synth", "travel", "--out", str(out), *settings(images)]
                for side, commands in (("loop", loop), ("synth", [synth])):
                    found.setdefault((side, images), []).append(cost(commands))
                    shutil.rmtree(out)
    classes = plan_of(few).classes
    print("| side | CPU ms an image | start, CPU s | images/s |\n|---|---|---|---|")
    for side in ("loop", "synth"):
        low, high = (Cost(*map(min, zip(*found[side, images], strict=True))) for images in (few, many))
        count = (many - few) * classes
        each = (high.cpu - low.cpu) / count
        rate = count / (high.wall - low.wall)
        print(f"| {side} | {1e3 * each:.2f} | {low.cpu - few * classes * each:.1f} | {rate:.1f} |")


if __name__ == "__main__":
    typer.run(main)
