"""Which process something belongs to, and whether that process still lives: by what no clock decides."""

from __future__ import annotations

import getpass
import os
import platform
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
        with suppress(PermissionError):  # another user's
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
        return _started(self.pid) in (self.started, None)

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (process {self.pid})"


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
