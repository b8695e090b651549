"""Rows of figures: how long work takes on a device, and the most memory it holds there."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.methods import GIGA, seconds
from syncclip.core.text import first_line

Row = dict[str, Any]
"""`what`, and figures by name; or `left_out`, with the reason."""

TIMES = 2


def measured(what: str, prepare: Callable[[], Callable[[], object]], device: str, **facts: Any) -> Row:
    """What some work takes: of the first time, in which code may be compiled, and of the best one after it.

    Args:
        prepare: loads what is needed, and returns the work.
        facts: further entries of the row.
    """
    free(device)
    place = torch.device(device)
    try:
        work = prepare()
        first = seconds(work, place)
        later = min(seconds(work, place) for _ in range(TIMES))
    except Exception as error:  # of memory, of the compiler, or of a package that is missing: the others go on
        return {"what": what, "left_out": first_line(error)}
    return {"what": what, **facts, "first_s": round(first, 3), "seconds": later, "peak_gb": peak(device)}


def free(device: str) -> float:
    """Give back what earlier work has left on the device, and count its peak anew; gigabytes that are still held."""
    gc.collect()
    if device != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / GIGA


def peak(device: str) -> float | None:
    """Gigabytes of tensors at their most since `free`; None on a CPU, where nobody counts them."""
    return round(torch.cuda.max_memory_allocated() / GIGA, 2) if device == "cuda" else None
