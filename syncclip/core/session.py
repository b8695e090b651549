"""State of a command or library call, shared by the main process and all workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from syncclip.core.secrets import remember_options


@dataclass(frozen=True)
class Session:
    """A command's storage options, trusted code, locks and listings, in one object that is sent to workers.

    A process has one current session, shared by all threads. A worker enters the session
    that it receives, either until the process ends (`enter`) or for one task (`with session:`).
    """

    default_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options from `--storage`, for remote URLs; `options` takes precedence."""
    options: dict[str, Any] = field(default_factory=dict)
    """fsspec options from the recipe, for remote URLs."""
    trusted: dict[str, bool] = field(default_factory=dict)
    """Maps trusted code (`module:Class`) to whether its module may be imported from a results folder."""
    untrusted_sources: dict[str, Path] = field(default_factory=dict)
    """Maps untrusted code to the marker file of the results folder whose recipe references it; for error messages."""
    listings: dict[str, str] = field(default_factory=dict)
    """Maps URLs of synthetic datasets to index checksums, if the index matches the folder listing."""
    lock: tuple[str, str] | None = None
    """URL and token of the driver's lock, which guards the workers' writes; None if the driver holds no lock."""
    holds: list[Any] = field(default_factory=list, compare=False, repr=False)
    """Locks held by this process; not pickled."""
    untagged_buckets: set[str] = field(default_factory=set, compare=False, repr=False)
    """URLs of buckets whose ETags are not MD5 checksums; not pickled."""
    downloads: list[int] = field(default_factory=list, compare=False, repr=False)
    """Sizes in bytes of the model files that this process has downloaded from storage; not pickled."""

    def copy(self) -> Session:
        """Return a copy for a nested command; the copy can be changed independently, but shares the locks."""
        return replace(
            self,
            default_options=dict(self.default_options),
            options=dict(self.options),
            trusted=dict(self.trusted),
            untrusted_sources=dict(self.untrusted_sources),
            listings=dict(self.listings),
        )

    def under_lock(self, url: str, token: str | None) -> Session:
        """Return a session for workers that write into a folder.

        Args:
            url: URL of the folder.
            token: token of this process's lock on the folder; None if the folder is not locked.
        """
        return replace(self, lock=None if token is None else (url, token), holds=[])

    def enter(self) -> Session:
        """Make this the current session."""
        remember_options(self.default_options)
        remember_options(self.options)
        _entered.append(self)
        return self

    __enter__ = enter

    def __exit__(self, *_: object) -> None:
        for position in reversed(range(len(_entered))):
            if _entered[position] is self:  # threads of a worker may exit in any order
                del _entered[position]
                return

    def __reduce__(self) -> tuple[Callable[..., Session], tuple[Any, ...]]:
        options = {**self.default_options, **self.options}  # as defaults, since a recipe overrides them
        return Session, (options, {}, self.trusted, self.untrusted_sources, self.listings, self.lock)


_entered = [Session()]
"""Sessions that this process has entered; the first one is the default for library calls."""


def current() -> Session:
    """Return the current session."""
    return _entered[-1]
