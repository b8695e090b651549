"""Compare the CPU time of read-only commands between two checkouts, in alternating runs.

python -m benchmarks.commands OTHER_CHECKOUT
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.measuring import ROOT

REPETITIONS = 5


def cpu_seconds(checkout: Path, arguments: list[str], folder: Path) -> float:
    """Return the CPU seconds of `syncclip` and its child processes, run from a checkout."""
    before = os.times()
    command = [sys.executable, "-m", "syncclip", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def write_images(folder: Path) -> Path:
    """Write class folders with images for `init`."""
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for number in range(3):
                image = Image.new("RGB", (32, 32), (40 * number, 80, 200 * label))
                image.save(folder / split / name / f"{number}.png")
    return folder


def main(other: Path) -> None:
    """Print the median CPU seconds of each command, first for `other`, then for this checkout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, dataset = write_images(folder / "pets"), str(folder / "set")
        cpu_seconds(ROOT, ["synth", "travel", "synthesis.images_per_class=1", "--out", dataset], ROOT)
        commands = {
            "--help": ["--help"],
            "plan": ["plan", "travel"],
            "status": ["status", dataset],
            "shards ls": ["shards", "ls", dataset],
            "init": ["init", str(images)],
        }
        seconds: dict[tuple[str, Path], list[float]] = {}
        for _ in range(REPETITIONS):
            for title, arguments in commands.items():
                for checkout in (other, ROOT):
                    (folder / "pets.yaml").unlink(missing_ok=True)
                    seconds.setdefault((title, checkout), []).append(cpu_seconds(checkout, arguments, folder))
    for title in commands:
        print(f"{title:10}", *(f"{statistics.median(seconds[title, checkout]):5.2f}" for checkout in (other, ROOT)))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
