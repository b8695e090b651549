"""`python -m benchmarks.gpu`: all parts, or those that are named."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.gpu import generation, sets, training
from benchmarks.gpu.measuring import Row
from benchmarks.gpu.shapes import FAMILIES
from benchmarks.gpu.tables import tables
from syncclip.core.settings import UserError

PARTS: dict[str, tuple[Sequence[str], float]] = {
    "sdxl": (generation.WHATS, 120),
    "flux": (generation.WHATS, 120),
    "training": (training.WHATS, 60),
    "set": (sets.WHATS, 60),
    "sd15": (generation.WHATS, 60),
    "sd3": (generation.WHATS, 90),
}
"""Part -> what it measures, and its limit in seconds; what they leave of nine minutes is for the tests."""

PACKAGES = ("torch", "diffusers", "transformers", "torchao", "xformers", "ray", "open_clip_torch", "syncclip")


def rows(part: str, device: str, work: Path) -> Iterator[Row]:
    """What a part measures, a row at a time."""
    if part == "training":
        return training.rows(device)
    return sets.rows(device, work) if part == "set" else generation.rows(part, device, work)


def measure(part: str, limit: float) -> list[Row]:
    """Run a part in a process of its own for at most `limit` seconds; what it had no time for is left out."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "rows.jsonl"
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", part, "--into", str(found)], start_new_session=True
        )
        try:
            ended = f"its process ended with {child.wait(limit)}"
        except subprocess.TimeoutExpired:
            ended = f"its part's {limit:g} seconds were over"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        made = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    there = {row["what"] for row in made}
    return [*made, *({"what": what, "left_out": ended} for what in PARTS[part][0] if what not in there)]


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    price: Annotated[float | None, typer.Option(help="Of an hour of the GPU: shows images for one unit of it.")] = None,
    longer: Annotated[float, typer.Option(help="Multiplies the parts' limits.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(__file__).parent,
    into: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure on this machine's GPU, and write <device>.json and <device>.md; without one, say what is left out."""
    names = parts or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise UserError(f"there is no part {unknown[0]!r}; name some of {', '.join(PARTS)}")
    if into is not None:  # the process of one part
        with tempfile.TemporaryDirectory() as work, into.open("a") as file:
            for row in rows(names[0], "cuda", Path(work)):
                print(f"{names[0]}: {row}", file=sys.stderr, flush=True)
                print(json.dumps(row), file=file, flush=True)
        return
    if not torch.cuda.is_available():
        print("There is no GPU here, so these figures are left out:")
        for name in names:
            print(f"  {name}: {'; '.join(PARTS[name][0])}")
        return
    write(results(names, price, longer), out)


def results(names: Sequence[str], price: float | None, longer: float) -> dict[str, Any]:
    """What `<device>.json` holds."""
    return {
        "device": torch.cuda.get_device_name(),
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
        "date": str(date.today()),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if _installed(name)},
        "price": price,
        "parts": {name: measure(name, longer * PARTS[name][1]) for name in names},
    }


def write(found: dict[str, Any], out: Path) -> None:
    """Write the results and their tables; parts that were measured before on such a device stay."""
    path = out / (re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-") + ".json")
    if path.exists():
        found["parts"] = json.loads(path.read_text())["parts"] | found["parts"]
    path.write_text(json.dumps(found, indent=1) + "\n")
    text = tables(found, FAMILIES)
    path.with_suffix(".md").write_text(text)
    print(text)


def _installed(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True


if __name__ == "__main__":
    typer.run(main)
