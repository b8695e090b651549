"""Forked processes: cheaper than new ones, which import torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def exit_code(function: Callable[..., object], *args: Any) -> int | None:
    """Call a function in a forked process; return its exit code, negative for a signal."""
    process = get_context("fork").Process(target=_call, args=(function, *args))
    process.start()
    process.join()
    return process.exitcode


def run_ranks(function: Callable[..., object], world_size: int, folder: Path, *args: Any) -> None:
    """Call `function(rank, world_size, folder, *args)` in the ranks of a gloo group; the first error is raised here."""
    mp.start_processes(_rank, args=(function, world_size, folder, *args), nprocs=world_size, start_method="fork")


def _call(function: Callable[..., object], *args: Any) -> None:
    torch.set_num_threads(1)
    torch.set_num_threads = lambda _: None  # type: ignore[assignment]  # would wait for threads of the parent
    function(*args)


def _rank(rank: int, function: Callable[..., object], world_size: int, folder: Path, *args: Any) -> None:
    rendezvous = f"file://{folder / f'rendezvous{world_size}'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    _call(function, rank, world_size, folder, *args)
    dist.barrier()
    os._exit(0)  # gloo's threads may outlive the interpreter, which would abort the process
