"""Orchestration overhead, and throughput compared with a plain loop: `python -m benchmarks.orchestration --help`.

Efficiency is generator seconds divided by actor seconds, from the start of the first shard to the commit of the last.
The time to start Ray and the actors and to load the weights is reported separately. The loop generates one prompt at
a time with the same pipeline, steps, guidance and threads, and saves each image, like the scripts of published
synthetic datasets.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import numpy as np
import typer
from PIL import Image

from syncclip.recipe.recipe import Recipe
from syncclip.runtime.ray_session import ray_session
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.status import SynthesisStatus
from syncclip.synthesis.worker import ShardWorker
from syncclip.synthetic_sets import prepare
from syncclip.workers.settings import Pool


class Sleeper:
    """Generator stub that waits without using the CPU, like a generator on a GPU."""

    computed = 0.0

    def __init__(self, pace: float, pixels: int) -> None:
        self.pace, self.pixels = pace, pixels

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> Callable[[], list[Image.Image]]:
        time.sleep(self.pace * len(prompts))
        side = max(1, self.pixels // 8)
        noise = [np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8) for seed in seeds]
        return lambda: [Image.fromarray(pixels).resize((self.pixels, self.pixels)) for pixels in noise]


def light_worker(pace: float, pixels: int) -> type[ShardWorker]:
    """Return a shard worker class with the generator stub and without filters."""

    class LightWorker(ShardWorker):
        def tools(self) -> tuple[Any, list[Any]]:
            import torch  # noqa: F401  imported here, as by a real generator, since writing shards needs it

            return Sleeper(pace, pixels), []

    return LightWorker


class Course(NamedTuple):
    """Status of a finished synthesis, and the total seconds before the first and after the last shard."""

    status: SynthesisStatus
    startup: float

    @property
    def row(self) -> str:
        """Table cells with efficiency, shares of the other stages, throughput and start-up time."""
        shares = self.status.busy
        others = ", ".join(f"{stage} {shares[stage]:.3f}" for stage in ("filter", "encode", "write"))
        return f"**{shares['generate']:.3f}** | {others} | {self.status.rate:.2f} | {self.startup:.1f} s"


def generated(plan: Plan, folder: Path, actors: int, worker: type[ShardWorker] = ShardWorker) -> Course:
    """Generate a dataset with a pool of actors."""
    statuses: list[SynthesisStatus] = []
    start = time.perf_counter()
    with patch("syncclip.synthesis.driver.ShardWorker", worker):
        synthesise_set(plan, str(folder), Pool(actors), show=False, observe=statuses.append)
    return Course(statuses[-1], time.perf_counter() - start - statuses[-1].elapsed)


def looped(plan: Plan, folder: Path, images: int) -> float:
    """Return the images per second of a loop over prompts, without loading the pipeline."""
    import torch

    torch.set_num_threads(plan.threads)
    generator = Generator(plan.generator)
    entries = [plan.entry(index) for index in range(images)]
    generator.generate([entries[0].prompt], [entries[0].seed])
    start = time.perf_counter()
    for entry in entries:
        file = folder / plan.classnames[entry.label] / f"{entry.image}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        generator.generate([entry.prompt], [entry.seed])[0].save(file, "JPEG", quality=plan.jpeg_quality)
    return images / (time.perf_counter() - start)


def main(
    actors: Annotated[int, typer.Option(help="Number of actors.")] = 1,
    images: Annotated[int, typer.Option(help="Images per class with the real generator.")] = 8,
    shards: Annotated[int, typer.Option(help="Number of shards with the generator stub.")] = 30,
    pace: Annotated[float, typer.Option(help="Seconds per image of the generator stub.")] = 0.03,
    loop: Annotated[int, typer.Option(help="Number of images in the loop.")] = 64,
    repetitions: Annotated[int, typer.Option(help="Runs of each side.")] = 3,
) -> None:
    """Print the efficiency, the shares of the other stages, and the ratio to the loop."""
    recipe = Recipe.load("travel", [f"synthesis.images_per_class={images}"])
    real = prepare.plan(recipe)
    per_class = -(-shards * real.shard_size // real.classes)
    light = prepare.plan(Recipe.load("travel", [f"synthesis.images_per_class={per_class}", "synthesis.filters=[]"]))
    print("| generator | efficiency | other stages | images/s | start-up |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ray_session(cpus=actors):
        for turn in range(repetitions):
            root = Path(folder) / str(turn)
            for pixels in (64, 512):
                course = generated(light, root / str(pixels), actors, light_worker(pace, pixels))
                print(f"| light, {pixels} px, {pace * 1000:.0f} ms per image | {course.row} |")
            course = generated(real, root / "icons", actors)
            print(f"| icons | {course.row} |")
            rate, status = looped(real, root / "loop", loop), course.status
            generated_rate = status.rate * (status.fresh + sum(status.rejects.values())) / status.fresh
            print(f"| loop, icons | | | {rate:.2f} | |")
            print(f"\nThroughput per actor, pool ÷ loop: **{generated_rate / rate / actors:.2f}×**\n", flush=True)


if __name__ == "__main__":
    typer.run(main)
