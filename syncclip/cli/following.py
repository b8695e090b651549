"""A job of a Ray cluster from its submission on: its log until it ends, and how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from syncclip.core.settings import UserError

RECONNECTIONS, RECONNECTION_PAUSE = 30, 2.0
"""How often in a row, and after how many seconds each, a job's log is asked for again where the connection broke."""

STOPPED = 130
"""Exit status of a job that somebody stopped, as of a command that was interrupted."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended, or that it goes on."""

    identifier: str
    status: int
    """0 done or not waited for, 130 stopped, else the exit status of its command."""
    reason: str
    """Why it failed, in one line; "" if it didn't."""


def follow(client: Any, name: str, say: Callable[[str], None]) -> Outcome:
    """Hand on the job's log until it ends, and tell how it ended.

    The connection may break off, with or without an error, long before the job ends: a tunnel is lost, or the head is
    busy. It is made anew then, and the log goes on where it was.

    Args:
        say: takes pieces of the log, with their line ends.

    Raises:
        UserError: the cluster doesn't answer any more.
    """
    import aiohttp

    said = 0

    async def tail() -> None:
        nonlocal said
        place = 0  # every connection begins with the first line
        async for piece in client.tail_job_logs(name):
            place += len(piece)
            if place > said:
                say(piece[said - place :])
                said = place

    failures = 0
    while True:
        before = said
        try:
            asyncio.run(tail())
            if client.get_job_status(name).is_terminal():
                return outcome(client, name)
        except BrokenPipeError:  # who reads what we say has gone
            raise
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            failures = 0 if said > before else failures + 1
            if failures == RECONNECTIONS:
                raise UserError(
                    f"the cluster doesn't answer any more ({error or type(error).__name__}); if it lives, job {name} "
                    "goes on, and the same command follows it again"
                ) from error
        time.sleep(RECONNECTION_PAUSE)


def outcome(client: Any, name: str) -> Outcome:
    """How an ended job ended."""
    info = client.get_job_info(name)
    state = str(info.status)
    if state == "SUCCEEDED":
        return Outcome(name, 0, "")
    if state == "STOPPED":
        return Outcome(name, STOPPED, "it was stopped; the same command goes on from there")
    return Outcome(name, info.driver_exit_code or 1, reason(client.get_job_logs(name), info.message or ""))


def reason(log: str, message: str) -> str:
    """Why a job failed, in one line: the sentence of the command, else the last line that its process wrote, else
    what Ray says."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    told = [line.removeprefix("syncclip: ") for line in lines if line.startswith("syncclip: ")]
    return (told or lines or [" ".join(message.split()) or "the cluster tells no reason"])[-1]
