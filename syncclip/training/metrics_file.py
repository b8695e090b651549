"""`metrics.jsonl`: the losses of a run, reproducible to the byte."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from typing import IO, Any

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError


class MetricsFile:
    """The losses of a run, one JSON object a line, in order of their steps and free of times.

    Locally every line is appended at once; elsewhere, where nothing can be appended to, the file is replaced at
    every `sync`. A line that belongs to a checkpoint is therefore there before the checkpoint is.

    A line for which there is no room does not end the run: the file is `behind`, and the next `sync` writes all lines
    again, or raises one sentence on why it can't.

    Args:
        path: of the file. Lines of an earlier start are kept up to `step`; later ones, also a line that a crash cut
            short, are dropped, since those steps will be repeated.
        step: how many steps are made.

    Raises:
        UserError: the file can't be written.
    """

    def __init__(self, path: str, step: int) -> None:
        self._path = path
        self._lines = lines_until(path, step) if step else []
        self._step = step
        self._file: IO[bytes] | None = None
        self._replace()

    @property
    def digest(self) -> str:
        """Hex sha256 of the lines."""
        return digest_of(self._lines)

    @property
    def behind(self) -> bool:
        """Whether lines could not be appended to a local file."""
        return self._file is None and storage.is_local(self._path)

    def write(self, **values: Any) -> None:
        """Add the line of a step."""
        assert values["step"] > self._step
        self._step = values["step"]
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        self._lines.append(line)
        if self._file is not None:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError:
                self._close_file()

    def sync(self) -> None:
        """Make every line durable.

        Raises:
            UserError: there is no room for them, or no way to their place.
        """
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
                return
            except OSError:
                self._close_file()
        self._replace()

    def close(self) -> None:
        """Make every line durable, if that can be, and close the file."""
        with contextlib.suppress(UserError):  # after an error, that one matters
            self.sync()
        self._close_file()

    def _replace(self) -> None:
        storage.write_bytes(self._path, b"".join(self._lines))
        if storage.is_local(self._path):
            self._file = storage.local_path(self._path).open("ab")

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is left in its buffer; the file is closed nevertheless
                self._file.close()
            self._file = None


def last_line(path: str) -> dict[str, Any] | None:
    """The newest whole line of a metrics file, None where there is none yet."""
    lines = _lines(path)
    return lines[-1][1] if lines else None


def lines_until(path: str, step: int) -> list[bytes]:
    """The whole lines of the steps up to `step`, as they are in the file."""
    return [line for line, values in _lines(path) if values["step"] <= step]


def digest_of(lines: Iterable[bytes]) -> str:
    """Hex sha256 of some lines, which a run's record and its checkpoints' markers hold."""
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _lines(path: str) -> list[tuple[bytes, dict[str, Any]]]:
    """The whole lines with their values; what a crash cut short, or damage left unreadable, is passed over."""
    found: list[tuple[bytes, dict[str, Any]]] = []
    if storage.exists(path):
        for line in storage.read_bytes(path).splitlines(keepends=True):
            with contextlib.suppress(UserError):
                if line.endswith(b"\n") and "step" in (values := parse_json(line, path, dict)):
                    found.append((line, values))
    return found
