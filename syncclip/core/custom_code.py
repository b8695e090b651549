"""Errors raised in the user's own code, `module:Class`, as one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.core.trust import trusted

_REPEATED = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
"""Errors of the operating system that a retry repeats."""


class OwnCodeError(UserError):
    """An exception that passed through the user's own code; a retry would raise it again."""


def own_code_error(error: BaseException) -> OwnCodeError | None:
    """The last line of the user's own code in an exception's traceback, with its type and message.

    Returns:
        None where no such code is in the traceback, or where a retry may succeed: errors of memory, disk or network.
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
    own = [(code, line) for module, code, line in frames if module.partition(".")[0] in packages]
    if not own or any(module.startswith("torch.distributed.") for module, _, _ in frames):  # another rank was lost
        return None
    code, line = own[-1]
    message = first_line(error) if str(error).strip() else ""
    kind = ": ".join(filter(None, (type(error).__name__, message)))
    return OwnCodeError(f"{code.co_filename}, line {line}, in {code.co_name}: {kind}")


@contextmanager
def own_code_reported() -> Iterator[None]:
    """Raise exceptions of the user's own code as `OwnCodeError`."""
    try:
        yield
    except Exception as error:
        if (found := own_code_error(error)) is None:
            raise
        raise found from error
