"""`metrics.jsonl`: the losses of a run, reproducible to the byte."""

from __future__ import annotations

import contextlib
import json
import os
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
        self._lines = [line for line in _lines(path) if line["step"] <= step] if step else []
        self._file: IO[bytes] | None = None
        self._replace()

    @property
    def behind(self) -> bool:
        """Whether lines could not be appended to a local file."""
        return self._file is None and storage.is_local(self._path)

    def write(self, **values: Any) -> None:
        """Add the line of a step."""
        assert not self._lines or values["step"] > self._lines[-1]["step"]
        line = _encoded(values)
        self._lines.append(values)
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
        storage.write_bytes(self._path, b"".join(map(_encoded, self._lines)))
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
    return lines[-1] if lines else None


def _lines(path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if storage.exists(path):
        for line in storage.read_bytes(path).splitlines(keepends=True):
            with contextlib.suppress(UserError):
                if line.endswith(b"\n"):
                    found.append(parse_json(line, path, dict))
    return found


def _encoded(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, allow_nan=False) + "\n").encode()
