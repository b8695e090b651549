"""Captions by a pool of two actors beside the serial writer: `python -m benchmarks.captions`.

Both write the same file, with a causal language model of random weights (some 30 M parameters, one thread a process).
Each side writes for few and many classes, by turns: classes a second are the difference, the rest is the start.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from benchmarks.classify import Cost, cost
from syncclip.synthesis.captioning import write_captions
from syncclip.workers.settings import Pool
from tests.worlds.language import asked, build_language_model

ACTORS = {"serial": 1, "pool of 2": 2}
COMMAND = "import sys; from benchmarks.captions import write; write(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))"


def write(model: str, out: str, classes: int, actors: int) -> None:
    """What one side's process does."""
    import torch

    torch.set_num_threads(1)
    settings = asked(model, captions=8, max_tokens=48)
    write_captions(settings, IMAGENET_CLASSNAMES[:classes], out, Pool(actors))


def main(
    few: Annotated[int, typer.Option(help="Classes of the short runs: some for each actor.")] = 20,
    many: Annotated[int, typer.Option(help="Classes of the long runs.")] = 80,
    turns: Annotated[int, typer.Option(help="Of each side and amount.")] = 3,
) -> None:
    """Show what a class and a start take on each side; of several turns, the least of each figure."""
    found: dict[tuple[str, int], list[Cost]] = {}
    with tempfile.TemporaryDirectory() as there:
        model = str(build_language_model(Path(there) / "model", width=512, layers=10))
        for turn in range(turns):
            for classes in (few, many):
                files = []
                for side, actors in ACTORS.items():
                    out = Path(there) / f"{turn}-{classes}-{actors}.json"
                    command = [sys.executable, "-c", COMMAND, model, str(out), str(classes), str(actors)]
                    found.setdefault((side, classes), []).append(cost([command]))
                    files.append(out.read_bytes())
                assert files[0] == files[1], "the files differ"
    print("| side | classes/s | CPU s a class | start, s |\n|---|---|---|---|")
    for side in ACTORS:
        low, high = (Cost(*map(min, zip(*found[side, classes], strict=True))) for classes in (few, many))
        each, cpu = ((high.wall - low.wall) / (many - few), (high.cpu - low.cpu) / (many - few))
        print(f"| {side} | {1 / each:.2f} | {cpu:.2f} | {low.wall - few * each:.1f} |")


if __name__ == "__main__":
    typer.run(main)
