"""A file that tells whoever looks from elsewhere how a run is doing, and that its driver lives.

MERGED Something that is done every few seconds while a block runs, whatever the block waits for.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from syncclip import storage

INTERVAL = 2.0
REMOTE_INTERVAL = 30.0
"""Seconds between two writes; each is a request where the file lies in an object store."""

SILENCE = 4 * REMOTE_INTERVAL
"""Seconds without a sign of life after which a driver is taken for dead."""

Told = TypeVar("Told", bound=BaseModel)
ItsFile = TypeVar("ItsFile", bound="LivingStatus[Any]")

logger = logging.getLogger(__name__)


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


class LivingStatus(Heartbeat, Generic[Told]):
    """Keeps a status file up to date while the `with` block runs, and tells how the block ended.

    Whoever derives from it sets `status` to what is new; the file follows within its interval. After a crash of the
    process the file says "running", and its last sign of life, `seen`, grows old. Where it can't be written, the run
    goes on.

    Args:
        place: of the file.
        status: at the begin; has a field `seen`, seconds since the epoch.
        interval: seconds between two writes.
        clock: seconds since the epoch; tests pass their own.
    """

    def __init__(
        self, place: str, status: Told, interval: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(interval or (INTERVAL if storage.is_local(place) else REMOTE_INTERVAL))
        self.status, self.clock = status, clock
        self._place = place

    @abstractmethod
    def outcome(self, error: BaseException | None) -> dict[str, Any]:
        """The fields of the status that tell how the block ended."""

    def beat(self) -> None:
        """Write the status, with this moment as the last sign of life."""
        status = self.status.model_copy(update={"seen": round(self.clock(), 3)})
        try:
            storage.write_document(self._place, status)
        except Exception as error:  # what matters is the run
            logger.debug("no status at %s: %s", self._place, error)

    def __enter__(self: ItsFile) -> ItsFile:
        self.beat()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.status = self.status.model_copy(update=self.outcome(error))
        self.beat()


Itself = TypeVar("Itself", bound="Heartbeat")
