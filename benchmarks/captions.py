"""Captions written by a pool of two actors, compared with the serial writer: `python -m benchmarks.captions`.

Both write the same file with a randomly initialised causal language model (about 30 M parameters, one thread per
process). The difference between runs with few and with many classes is the cost per class; the remainder is the
startup cost.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from benchmarks.measuring import compare, marginal
from syncclip.synthesis.captioning import write_captions
from syncclip.workers.settings import Pool
from tests.worlds.language import asked, build_language_model

ACTORS = {"serial": 1, "pool of 2": 2}
COMMAND = "import sys; from benchmarks.captions import write; write(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))"


def write(model: str, out: str, classes: int, actors: int) -> None:
    """Write captions of the first ImageNet classes; runs in its own process."""
    import torch

    torch.set_num_threads(1)
    settings = asked(model, captions=8, max_tokens=48)
    write_captions(settings, IMAGENET_CLASSNAMES[:classes], out, Pool(actors))


def main(
    few: Annotated[int, typer.Option(help="Number of classes in the short runs.")] = 20,
    many: Annotated[int, typer.Option(help="Number of classes in the long runs.")] = 80,
    repetitions: Annotated[int, typer.Option(help="Runs per program and size; the minimum is reported.")] = 3,
) -> None:
    """Print the cost per class and the startup cost."""
    with tempfile.TemporaryDirectory() as folder:
        model = str(build_language_model(Path(folder) / "model", width=512, layers=10))

        def commands(actors: int, classes: int) -> list[list[str]]:
            out = Path(folder) / f"{classes}-{actors}.json"
            out.unlink(missing_ok=True)
            return [[sys.executable, "-c", COMMAND, model, str(out), str(classes), str(actors)]]

        sides = {side: partial(commands, actors) for side, actors in ACTORS.items()}
        costs = compare(sides, (few, many), repetitions)
        for classes in (few, many):
            files = {(Path(folder) / f"{classes}-{actors}.json").read_bytes() for actors in ACTORS.values()}
            assert len(files) == 1, "the files differ"
    print("| program | classes/s | CPU s per class | start, s |\n|---|---|---|---|")
    for side, (low, high) in costs.items():
        each, start = marginal(few, low, many, high)
        print(f"| {side} | {1 / each.wall:.2f} | {each.cpu:.2f} | {start.wall:.1f} |")


if __name__ == "__main__":
    typer.run(main)
