"""Errors for exceptions raised by custom code (`module:Class`): one line, then the traceback of the custom code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.core.trust import trusted

_PERMANENT = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
"""Non-retryable subclasses of OSError."""

TRACEBACK = "\nTraceback of custom code:\n"
"""Separator between the first line of an error in custom code and its traceback."""
MOST_FRAMES = 10
"""Maximum number of frames in a traceback of custom code; the innermost frames are omitted."""


class CustomCodeError(UserError):
    """A permanent error in custom code; tasks that raise it are not retried."""


def custom_code_error(error: BaseException) -> CustomCodeError | None:
    """Describe an exception by the last line of custom code in its traceback, its type and message.

    `TRACEBACK` and the frames from the first line of custom code onwards follow, without those of the calling library.

    Returns:
        The error to raise; None if the traceback contains no custom code, or for transient errors (out of memory,
        disk or network).
    """
    transient = isinstance(error, OSError) and not isinstance(error, _PERMANENT)
    if transient or isinstance(error, UserError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return None
    modules = {name.partition(":")[0] for name in trusted()}
    packages = {name.partition(".")[0] for name in modules} - {"syncclip", ""}
    frames = [
        (str(frame.f_globals.get("__name__")), frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    custom = [n for n, (module, _, _) in enumerate(frames) if module.partition(".")[0] in packages]
    if not custom or any(module.startswith("torch.distributed.") for module, _, _ in frames):  # another rank was lost
        return None
    _, code, line = frames[custom[-1]]
    message = first_line(error) if str(error).strip() else ""
    description = ": ".join(filter(None, (type(error).__name__, message)))
    shown = traceback.extract_tb(error.__traceback__)[custom[0] : custom[0] + MOST_FRAMES]
    trace = "".join(traceback.format_list(shown)).rstrip()
    return CustomCodeError(f"{code.co_filename}, line {line}, in {code.co_name}: {description}{TRACEBACK}{trace}")


@contextmanager
def custom_code_reported() -> Iterator[None]:
    """Convert exceptions raised by custom code in the `with` block into `CustomCodeError`."""
    try:
        yield
    except Exception as error:
        if (described := custom_code_error(error)) is None:
            raise
        raise described from error
