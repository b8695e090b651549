"""A loader process that is killed while it makes a batch."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from syncclip.stream.mixed import MixedStream


def kill_once(mixed: MixedStream, mark: Path) -> Callable[[], None]:
    """A call after which one loader process is killed with -9, at the next image that it transforms; only once.

    Not from outside: it might be holding a lock that it shares with its parent, which would then wait forever.

    Args:
        mark: a file that is there from the kill on.
    """
    honest, parent, wanted = mixed.transform, os.getpid(), mark.with_name(f"{mark.name}.wanted")

    def transform(image: Image.Image, draw: torch.Generator) -> Tensor:
        if os.getpid() != parent:
            with contextlib.suppress(FileNotFoundError):
                wanted.rename(mark)
                os.kill(os.getpid(), signal.SIGKILL)
        return honest(image, draw)

    def kill() -> None:
        if not mark.exists():
            wanted.touch()

    mixed.transform = transform
    return kill
