"""Repositories on the Hugging Face Hub: names, downloads and errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from syncclip.core.settings import UserError
from syncclip.core.text import few, first_line

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
"""Pattern of a repository name: `owner/name`, or `owner/name@revision` with a branch, tag or commit."""

PREFIX = "hf://"
"""Prefix that distinguishes a Hub repository from a path or any other URL."""

LOGIN = "log in (run `hf auth login`, or set HF_TOKEN)"


def download(name: str, needed: Sequence[str], others: Sequence[str] = ()) -> str | None:
    """Download files from a repository into the Hub cache, and return the local folder; offline, cached files are used.

    Args:
        name: `PREFIX` followed by a name that matches `NAME`; for any other path or URL, the function returns None.
        needed: names of required files.
        others: names of optional files.

    Raises:
        UserError: the repository does not exist, required files are missing, or the Hub is unreachable.
    """
    if not name.startswith(PREFIX):
        return None
    match = NAME.fullmatch(name.removeprefix(PREFIX))
    if match is None:
        raise UserError(f"{name} is not a Hugging Face Hub repository name; use {PREFIX}owner/name[@revision]")
    from huggingface_hub import snapshot_download

    with hub_access(f"{name}:"):
        folder = snapshot_download(match["repo"], revision=match["revision"], allow_patterns=[*needed, *others])
    if missing := [file for file in needed if not Path(folder, file).is_file()]:
        raise UserError(f"{name} is not a syncclip run: the Hub repository has no {few(missing)}; check the name")
    return folder


def pinned(name: str, folder: str) -> str:
    """Return the repository name pinned to the commit that `download` stored in `folder`."""
    return f"{name.partition('@')[0]}@{Path(folder).name}"


@contextmanager
def hub_access(what: str) -> Iterator[None]:
    """Suppress the Hub client's progress bars and warnings, and convert its errors to user errors.

    Args:
        what: prefix of all error messages.

    Raises:
        UserError: the Hub is unreachable, or rejects the request.
    """
    from huggingface_hub import errors
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    library, bars = logging.getLogger("huggingface_hub"), not are_progress_bars_disabled()
    level = library.level
    library.setLevel(logging.ERROR)
    if bars:
        disable_progress_bars()
    try:
        yield
    except UserError:
        raise
    except errors.HFValidationError as error:
        raise UserError(f"{what} the repository name is invalid; use owner/name, or check the path") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{what} the repository on the Hub has no such revision; check the part after the @") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{what} the repository does not exist on the Hub, or is private; check the name, or {LOGIN}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise UserError(
            f"{what} the Hub rejected the request ({first_line(error)}); {LOGIN} as a user with access, or retry later"
        ) from error
    except Exception as error:  # no route, DNS, proxy: each HTTP library has its own errors
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{what} the Hub is unreachable ({reason}); check the name and the network") from error
    finally:
        library.setLevel(level)
        if bars:
            enable_progress_bars()
