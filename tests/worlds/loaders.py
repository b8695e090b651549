"""A loader process that is killed while it loads a batch."""

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


def kill_once(mixed: MixedStream, marker: Path) -> Callable[[], None]:
    """Return a function after whose call one loader process kills itself (-9) at its next image, once.

    A kill from outside could hit a process that holds a lock shared with its parent, which would then wait forever.

    Args:
        marker: file that is created at the kill.
    """
    original, parent, request = mixed.transform, os.getpid(), marker.with_name(f"{marker.name}.wanted")

    def transform(image: Image.Image, generator: torch.Generator) -> Tensor:
        if os.getpid() != parent:
            with contextlib.suppress(FileNotFoundError):
                request.rename(marker)
                os.kill(os.getpid(), signal.SIGKILL)
        return original(image, generator)

    def kill() -> None:
        if not marker.exists():
            request.touch()

    mixed.transform = transform
    return kill
