"""Unique process identifiers, clock-independent liveness checks, and environment variables."""

from __future__ import annotations

import getpass
import os
import platform
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from syncclip.core.settings import Settings


class Owner(Settings):
    """Unique identifier of a process, distinct from that of a later process with the same process ID."""

    host: str
    machine: str
    """Boot ID of the machine and PID namespace of the process."""
    pid: int
    started: str
    """Start time of the process: clock ticks since boot or, without /proc, Unix time in seconds."""
    user: str

    @classmethod
    def here(cls) -> Owner:
        """Return the unique identifier of the current process."""
        user = str(os.getuid())
        with suppress(OSError, KeyError):  # a container may run under a user ID without a name
            user = getpass.getuser()
        pid = os.getpid()
        return cls(host=platform.node(), machine=_machine(), pid=pid, started=_started(pid) or "", user=user)

    def alive(self) -> bool | None:
        """Return whether the process is running or suspended; None for a process on another machine."""
        if (self.host, self.machine) != (platform.node(), _machine()):
            return None
        return _exists(self.pid) and _started(self.pid) in (self.started, None)

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (process {self.pid})"


MARK = r"[0-9a-f]{6}-[0-9a-f]+-[0-9a-f]{6}"
"""Regular expression that matches the return value of `mark`."""
UNREADABLE = "000000"
"""Last part of the mark of a process whose start time cannot be read."""


def mark(pid: int | None = None) -> str:
    """Return a short identifier of a process for use in file names; identifiers are never reused on a machine.

    Args:
        pid: ID of a process on this machine; None: this process.
    """
    pid = os.getpid() if pid is None else pid
    identity = platform.node() + _machine(), _started(pid) or ""
    machine, started = (f"{zlib.crc32(text.encode()):08x}"[:6] for text in identity)
    return f"{machine}-{pid:x}-{started}"


def is_alive(process: str) -> bool | None:
    """Return whether the process with the given mark is running; None for a process on another machine."""
    machine, pid, started = process.split("-")
    own_machine, _, current = mark(int(pid, 16)).split("-")
    if machine != own_machine:
        return None
    return _exists(int(pid, 16)) and current in (started, UNREADABLE)


@contextmanager
def changed_environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables for the duration of the `with` block; None unsets a variable."""
    previous = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(previous)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return True


def _machine() -> str:
    """Return the machine's boot ID and the PID namespace; "" on systems without them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return the start time of a process, or "ended" for a zombie; None if the start time cannot be read."""
    if Path("/proc/self/stat").exists():
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return "ended" if fields[0] in "ZX" else fields[19]
        return None
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return "ended" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    return None
