"""CPU seconds of the commands that only look: this checkout and another one by turns, each command in a new process.

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

TURNS = 5
HERE = Path(__file__).parents[1]


def cpu_seconds(checkout: Path, arguments: list[str], folder: Path) -> float:
    """Of `syncclip` and its children with a checkout's package, user's and system's."""
    before = os.times()
    command = [sys.executable, "-m", "syncclip", *arguments]
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True, capture_output=True
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def images(folder: Path) -> Path:
    """A folder of class folders, for `init`."""
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (32, 32), (40 * number, 80, 200 * label)).save(place / f"{number}.png")
    return folder


def main(other: Path) -> None:
    """Print the median of each command and checkout."""
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        data = images(folder / "pets")
        made = ["synth", "travel", "synthesis.images_per_class=1", "--out", str(folder / "set")]
        subprocess.run([sys.executable, "-m", "syncclip", *made], cwd=HERE, check=True, capture_output=True)
        commands = {
            "--help": ["--help"],
            "plan": ["plan", "travel"],
            "status": ["status", str(folder / "set")],
            "shards ls": ["shards", "ls", str(folder / "set")],
            "init": ["init", str(data)],
        }
        found: dict[tuple[str, Path], list[float]] = {}
        for _ in range(TURNS):
            for name, arguments in commands.items():
                for checkout in (other, HERE):
                    (folder / "pets.yaml").unlink(missing_ok=True)
                    found.setdefault((name, checkout), []).append(cpu_seconds(checkout, arguments, folder))
    for name in commands:
        print(f"{name:10} {statistics.median(found[name, other]):5.2f} {statistics.median(found[name, HERE]):5.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
