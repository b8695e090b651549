"""Measure time and peak memory on a device."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.methods import GIGA, seconds
from syncclip.core.text import first_line

Row = dict[str, Any]
"""Figures by name, with the row's name as `what`; if nothing was measured, `left_out` contains the reason."""

TIMES = 2


def measured(what: str, prepare: Callable[[], Callable[[], object]], device: str, **facts: Any) -> Row:
    """Measure the seconds of the first call, which may compile code, and of the fastest later call.

    Args:
        prepare: loads the model and returns the call to measure.
        facts: additional entries of the row.
    """
    free(device)
    try:
        work = prepare()
        first = seconds(work, torch.device(device))
        later = min(seconds(work, torch.device(device)) for _ in range(TIMES))
    except Exception as error:  # out of memory, a compiler error or a missing package: other rows continue
        return {"what": what, "left_out": first_line(error)}
    return {"what": what, **facts, "first_s": round(first, 3), "seconds": later, "peak_gb": peak(device)}


def free(device: str) -> float:
    """Release memory on the device, reset the peak, and return the GB that are still allocated."""
    gc.collect()
    if device != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / GIGA


def peak(device: str) -> float | None:
    """Return the peak tensor memory in GB since `free`; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / GIGA, 2) if device == "cuda" else None
