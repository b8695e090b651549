"""Which process something belongs to, and whether that process still lives: by what no clock decides."""

from __future__ import annotations

import getpass
import os
import platform
import zlib
from contextlib import suppress
from pathlib import Path

from syncclip.core.settings import Settings


class Owner(Settings):
    """A process of some machine, told from all that ever have its number there."""

    host: str
    machine: str
    """Of this start of the machine, and of the container, in which numbers of processes mean something."""
    pid: int
    started: str
    """When the process began, as the machine's kernel counts."""
    user: str

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        user = str(os.getuid())
        with suppress(OSError, KeyError):  # a container may run under a number without a name
            user = getpass.getuser()
        pid = os.getpid()
        return cls(host=platform.node(), machine=_machine(), pid=pid, started=_started(pid) or "", user=user)

    def alive(self) -> bool | None:
        """Whether the process runs, or is only stopped; None where it can't be known, as it is another machine's."""
        if (self.host, self.machine) != (platform.node(), _machine()):
            return None
        return _exists(self.pid) and _started(self.pid) in (self.started, None)

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (process {self.pid})"


MARK = r"[0-9a-f]{6}-[0-9a-f]+-[0-9a-f]{6}"
"""Regular expression of what `mark` gives."""


def mark() -> str:
    """Names this process in the name of a file: in few characters, without a clock, and never again on this machine."""
    pid = os.getpid()
    return f"{_brief(platform.node() + _machine())}-{pid:x}-{_brief(_started(pid) or '')}"


def living(mark: str) -> bool | None:
    """Whether the process that a mark names runs; None where it can't be known, as it is another machine's."""
    machine, pid, started = mark.split("-")
    if machine != _brief(platform.node() + _machine()):
        return None
    there = _started(int(pid, 16))
    return _exists(int(pid, 16)) and (there is None or _brief(there) == started)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _brief(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"[:6]


def _machine() -> str:
    """The start of this machine and the name space of its processes; "" where the system names neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process began; "ended" of one that waits only for its parent to notice; None where this is hidden."""
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
