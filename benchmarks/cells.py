"""Time saved by loading the frozen parts of a study's runs once per process: `python -m benchmarks.cells`.

One process executes each training run of a recipe twice: on its own, and reusing the parts that earlier runs loaded.
Their results must be bitwise identical. The first run of each kind is a warm-up.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from syncclip.runs.build import ModelCache

BITS = ("prompts.safetensors", "metrics.jsonl", "results.json")


def main(
    recipe: Annotated[str, typer.Argument(help="Recipe that sets the dataset and the backbone.")] = "travel",
    method: Annotated[str, typer.Option(help="Method to train.")] = "kgcoop",
    cells: Annotated[int, typer.Option(min=2, help="Number of training runs, each with its own seed.")] = 6,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
) -> None:
    """Print seconds per training run with and without shared parts, and how many times each part was loaded."""
    values = [f"training.method={method}", "training.data=real", "training.epochs=1", *(overrides or [])]
    base = Recipe.load(recipe, values)
    cache = ModelCache(base.study.keep_images)
    alone, shared = [], []
    with tempfile.TemporaryDirectory(prefix="syncclip-cells-") as folder:
        for seed in range(1, cells + 1):
            seeded = base.with_values({"training.seed": seed})
            folders = Path(folder) / f"alone-{seed}", Path(folder) / f"shared-{seed}"
            alone.append(_seconds(seeded, folders[0], None))
            shared.append(_seconds(seeded, folders[1], cache))
            assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in BITS), seed
    ours, plain = statistics.median(shared[1:]), statistics.median(alone[1:])
    ratios = sorted(a / b for a, b in zip(alone[1:], shared[1:], strict=True))
    print(f"{base.dataset.name}, {method}: {cells - 1} training runs, medians (range of ratios)")
    print(
        f"alone {plain:.2f} s per training run, with shared parts {ours:.2f} s: {plain / ours:.2f}x "
        f"({ratios[0]:.2f}-{ratios[-1]:.2f}), bitwise identical results"
    )
    print(f"{cells} training runs loaded: {', '.join(f'{kind} {count}' for kind, count in cache.loads.items())}")


def _seconds(recipe: Recipe, folder: Path, cache: ModelCache | None) -> float:
    start = time.perf_counter()
    jobs.run_here(recipe, str(folder), cache=cache)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
