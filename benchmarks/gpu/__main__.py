"""Run all or some parts of the GPU benchmarks: `python -m benchmarks.gpu [PART]...`."""

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
"""Part -> names of its rows, and its time limit in seconds; the limits add up to less than nine minutes."""

PACKAGES = ("torch", "diffusers", "transformers", "torchao", "xformers", "ray", "open_clip_torch", "syncclip")


def rows(part: str, device: str, work: Path) -> Iterator[Row]:
    """Yield the rows of a part as they are measured."""
    if part == "training":
        return training.rows(device)
    return sets.rows(device, work) if part == "set" else generation.rows(part, device, work)


def measure(part: str, limit: float) -> list[Row]:
    """Run a part in a new process for at most `limit` seconds; missing rows contain a reason instead."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "benchmarks.gpu", part, "--into", str(file)]
        child = subprocess.Popen(command, start_new_session=True)
        try:
            reason = f"exit status {child.wait(limit)}"
        except subprocess.TimeoutExpired:
            reason = f"time limit of {limit:g} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    missing = [name for name in PARTS[part][0] if name not in {row["what"] for row in rows}]
    return [*rows, *({"what": name, "left_out": reason} for name in missing)]


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    price: Annotated[
        float | None, typer.Option(help="Price per GPU hour, for reporting images per unit of currency.")
    ] = None,
    longer: Annotated[float, typer.Option(help="Factor by which to multiply the time limits.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(__file__).parent,
    into: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the benchmarks on this machine's GPU, and write <device>.json and <device>.md."""
    names = parts or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise UserError(f"unknown part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if into is not None:  # the process of one part
        with tempfile.TemporaryDirectory() as work, into.open("a") as file:
            for row in rows(names[0], "cuda", Path(work)):
                print(f"{names[0]}: {row}", file=sys.stderr, flush=True)
                print(json.dumps(row), file=file, flush=True)
        return
    if not torch.cuda.is_available():
        print("No GPU found; skipped:")
        for name in names:
            print(f"  {name}: {'; '.join(PARTS[name][0])}")
        return
    write(results(names, price, longer), out)


def results(names: Sequence[str], price: float | None, longer: float) -> dict[str, Any]:
    """Run the parts, and return the content of `<device>.json`."""
    return {
        "device": torch.cuda.get_device_name(),
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
        "date": str(date.today()),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if _installed(name)},
        "price": price,
        "parts": {name: measure(name, longer * PARTS[name][1]) for name in names},
    }


def write(measured: dict[str, Any], out: Path) -> None:
    """Write the results and their tables; earlier results of other parts on the same device are kept."""
    path = out / (re.sub(r"[^a-z0-9]+", "-", measured["device"].lower()).strip("-") + ".json")
    if path.exists():
        measured["parts"] = json.loads(path.read_text())["parts"] | measured["parts"]
    path.write_text(json.dumps(measured, indent=1) + "\n")
    text = tables(measured, FAMILIES)
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
