"""Something that is done every few seconds while a block runs, whatever the block waits for."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

Itself = TypeVar("Itself", bound="Heartbeat")


class Heartbeat(ABC):
    """Calls its `beat` every `interval` seconds from a thread of its own while the `with` block runs.

    The block's end waits for a beat that has begun; afterwards there is none.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)

    @abstractmethod
    def beat(self) -> None:
        """What is done each time; must not raise."""

    def __enter__(self: Itself) -> Itself:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._ended.wait(self._interval):
            self.beat()
