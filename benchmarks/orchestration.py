"""What orchestration costs beside the generator, and what it gains over a loop.

`python -m benchmarks.orchestration --help`

Efficiency: seconds in the generator divided by actor-seconds, from the first shard's start to the last one's commit.
The start of Ray, of the actors and of the weights is reported separately. The loop generates prompt by prompt with the
same pipeline, steps, guidance and threads, and saves each image, as scripts of published synthetic sets do.
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
    """A light generator: takes its time as one on a GPU does, leaving the CPU free."""

    computed = 0.0

    def __init__(self, pace: float, pixels: int) -> None:
        self.pace, self.pixels = pace, pixels

    def start(self, prompts: Sequence[str], seeds: Sequence[int]) -> Callable[[], list[Image.Image]]:
        time.sleep(self.pace * len(prompts))
        side = max(1, self.pixels // 8)
        noise = [np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8) for seed in seeds]
        return lambda: [Image.fromarray(one).resize((self.pixels, self.pixels)) for one in noise]


def light_worker(pace: float, pixels: int) -> type[ShardWorker]:
    """A maker of shards with a light generator and no filters."""

    class LightWorker(ShardWorker):
        def tools(self) -> tuple[Any, list[Any]]:
            import torch  # noqa: F401  whatever writes shards needs it, and any other generator has it by now

            return Sleeper(pace, pixels), []

    return LightWorker


class Course(NamedTuple):
    """What a synthesis took."""

    status: SynthesisStatus
    startup: float
    """Seconds of the call before and after the shards."""

    @property
    def row(self) -> str:
        """Efficiency, shares of the other stages, pace and start-up."""
        shares = self.status.busy
        others = ", ".join(f"{stage} {shares[stage]:.3f}" for stage in ("filter", "encode", "write"))
        return f"**{shares['generate']:.3f}** | {others} | {self.status.rate:.2f} | {self.startup:.1f} s"


def generated(plan: Plan, folder: Path, actors: int, maker: type[ShardWorker] = ShardWorker) -> Course:
    """Generate a set with the pool of actors."""
    seen: list[SynthesisStatus] = []
    begun = time.perf_counter()
    with patch("syncclip.synthesis.driver.ShardWorker", maker):
        synthesise_set(plan, str(folder), Pool(actors), show=False, observe=seen.append)
    return Course(seen[-1], time.perf_counter() - begun - seen[-1].elapsed)


def looped(plan: Plan, folder: Path, images: int) -> float:
    """Images per second of a loop over prompts; the pipeline is loaded beforehand."""
    import torch

    torch.set_num_threads(plan.threads)
    generator = Generator(plan.generator)
    entries = [plan.entry(index) for index in range(images)]
    generator.generate([entries[0].prompt], [entries[0].seed])
    begun = time.perf_counter()
    for entry in entries:
        place = folder / plan.classnames[entry.label] / f"{entry.image}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        generator.generate([entry.prompt], [entry.seed])[0].save(place, "JPEG", quality=plan.jpeg_quality)
    return images / (time.perf_counter() - begun)


def main(
    actors: Annotated[int, typer.Option(help="Actors of the pool.")] = 1,
    images: Annotated[int, typer.Option(help="Images of each class from the real generator.")] = 8,
    shards: Annotated[int, typer.Option(help="Shards from the light generator.")] = 30,
    pace: Annotated[float, typer.Option(help="Seconds per image of the light generator.")] = 0.03,
    loop: Annotated[int, typer.Option(help="Images of the loop.")] = 64,
    repetitions: Annotated[int, typer.Option(help="Runs of each side, in turn.")] = 3,
) -> None:
    """Print efficiency, the shares of the other stages, and the ratio to the loop."""
    recipe = Recipe.load("travel", [f"synthesis.images_per_class={images}"])
    real = prepare.plan(recipe)
    per_class = -(-shards * real.shard_size // real.classes)
    light = prepare.plan(Recipe.load("travel", [f"synthesis.images_per_class={per_class}", "synthesis.filters=[]"]))
    print("| generator | efficiency | other stages | images/s | start-up |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place, ray_session(cpus=actors):
        for turn in range(repetitions):
            root = Path(place) / str(turn)
            for pixels in (64, 512):
                course = generated(light, root / str(pixels), actors, light_worker(pace, pixels))
                print(f"| light, {pixels} px, {pace * 1000:.0f} ms per image | {course.row} |")
            course = generated(real, root / "icons", actors)
            print(f"| icons | {course.row} |")
            alone = looped(real, root / "loop", loop)
            status = course.status
            fresh = status.rate * (status.fresh + sum(status.rejects.values())) / status.fresh
            print(f"| loop, icons | | | {alone:.2f} | |")
            print(
                f"\nimages generated per second and actor, pool / loop: **{fresh / alone / actors:.2f}x**\n", flush=True
            )


if __name__ == "__main__":
    typer.run(main)
