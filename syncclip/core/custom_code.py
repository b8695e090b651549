"""One-line errors for exceptions raised by custom code (`module:Class`)."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.core.trust import trusted

_PERMANENT = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
"""Non-retryable subclasses of OSError."""


class CustomCodeError(UserError):
    """A permanent error in custom code; tasks that raise it are not retried."""


def custom_code_error(error: BaseException) -> CustomCodeError | None:
    """Describe an exception by its type, message and last line of custom code in the traceback.

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
    custom = [(code, line) for module, code, line in frames if module.partition(".")[0] in packages]
    if not custom or any(module.startswith("torch.distributed.") for module, _, _ in frames):  # another rank was lost
        return None
    code, line = custom[-1]
    message = first_line(error) if str(error).strip() else ""
    description = ": ".join(filter(None, (type(error).__name__, message)))
    return CustomCodeError(f"{code.co_filename}, line {line}, in {code.co_name}: {description}")


@contextmanager
def custom_code_reported() -> Iterator[None]:
    """Convert exceptions raised by custom code in the `with` block into `CustomCodeError`."""
    try:
        yield
    except Exception as error:
        if (described := custom_code_error(error)) is None:
            raise
        raise described from error
