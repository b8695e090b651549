"""Time and peak memory of work on a device."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.methods import GIGA, seconds
from syncclip.core.text import first_line

Row = dict[str, Any]
"""Figures by name, with the row's name as `what`; if there are none, `left_out` contains the reason."""

TIMES = 2


def measured(what: str, prepare: Callable[[], Callable[[], object]], device: str, **facts: Any) -> Row:
    """Seconds of the first call, which may compile code, and of the fastest later one.

    Args:
        prepare: loads the model and returns the work.
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
    """Release memory on the device and reset its peak; returns the GB that are still allocated."""
    gc.collect()
    if device != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / GIGA


def peak(device: str) -> float | None:
    """Peak GB of tensors since `free`; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / GIGA, 2) if device == "cuda" else None
