"""State of a command or library call that every process working for it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from syncclip.core.secrets import remember_options


@dataclass(frozen=True)
class Session:
    """Storage options, trusted code, locks and listings of a command, in one object that is pickled to its workers.

    A process has one current session, which all of its threads see. A worker enters the session that it receives,
    either for the rest of its process (`enter`) or for a task (`with session:`).
    """

    default_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options of remote URLs, such as those of `--storage`, which `options` override."""
    options: dict[str, Any] = field(default_factory=dict)
    """fsspec options of remote URLs, from the recipe."""
    trusted: dict[str, bool] = field(default_factory=dict)
    """Names of trusted code (`module:Class`) -> whether the module may also be in a folder of results."""
    untrusted_sources: dict[str, Path] = field(default_factory=dict)
    """Names of code in a recipe that is not the user's own -> the file that shows this, for error messages."""
    listings: dict[str, str] = field(default_factory=dict)
    """URLs of synthetic datasets whose index matched their listing -> the checksum of the index."""
    lock: tuple[str, str] | None = None
    """URL and token of the lock under which a worker writes, held by the driver."""
    holds: list[Any] = field(default_factory=list, compare=False, repr=False)
    """Locks held by this process; they are not pickled."""
    untagged_buckets: set[str] = field(default_factory=set, compare=False, repr=False)
    """URLs of buckets whose ETags are not MD5s, as this process has found; not pickled."""

    def copy(self) -> Session:
        """Return a copy for a nested command: its changes end with it, and it shares the process's locks."""
        return Session(
            dict(self.default_options),
            dict(self.options),
            dict(self.trusted),
            dict(self.untrusted_sources),
            dict(self.listings),
            self.lock,
            self.holds,
            self.untagged_buckets,
        )

    def under_lock(self, url: str, token: str | None) -> Session:
        """Return the session for workers that write into a folder locked by this process; no lock if `token` is None.

        Args:
            url: the folder.
            token: of the lock's `Hold`.
        """
        return replace(self, lock=None if token is None else (url, token), holds=[])

    def enter(self) -> None:
        """Make this the current session."""
        remember_options(self.default_options)
        remember_options(self.options)
        _entered.append(self)

    def __enter__(self) -> Session:
        self.enter()
        return self

    def __exit__(self, *_: object) -> None:
        for position in reversed(range(len(_entered))):
            if _entered[position] is self:  # two threads of a worker may leave in any order
                del _entered[position]
                return

    def __reduce__(self) -> tuple[Callable[..., Session], tuple[Any, ...]]:
        options = {**self.default_options, **self.options}  # which a recipe read by the worker may override
        return Session, (options, {}, self.trusted, self.untrusted_sources, self.listings, self.lock)


_entered = [Session()]
"""The sessions that this process has entered; the first one serves library calls outside any session."""


def current() -> Session:
    """Return the session of this process."""
    return _entered[-1]
