"""Errors of custom code, `module:Class`, as one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.core.trust import trusted

_REPEATED = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
"""Errors of the operating system that are not transient."""


class CustomCodeError(UserError):
    """An exception of custom code; a retry would raise it again."""


def custom_code_error(error: BaseException) -> CustomCodeError | None:
    """Return the last line of custom code in an exception's traceback, with its type and message.

    Returns:
        None if the traceback contains no custom code, or if a retry may succeed: errors of memory, disk or network.
    """
    transient = isinstance(error, OSError) and not isinstance(error, _REPEATED)
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
    """Raise exceptions of custom code as `CustomCodeError`."""
    try:
        yield
    except Exception as error:
        if (own := custom_code_error(error)) is None:
            raise
        raise own from error
