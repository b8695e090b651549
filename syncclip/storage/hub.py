"""Repositories on the Hugging Face hub: what is a name of one, a copy of its files, and what the hub refuses."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from syncclip.core.settings import UserError
from syncclip.core.text import few, first_line

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
"""`owner/name`, or `owner/name@revision` of a branch, a tag or a commit."""

PREFIX = "hf://"
"""What a name on the hub begins with wherever a path or a URL may stand in its place."""

LOGIN = "log in (`hf auth login`, or HF_TOKEN)"


def fetched(name: str, needed: Sequence[str], others: Sequence[str] = ()) -> str | None:
    """The folder in the hub's cache with some files of a repository; None where `name` does not begin with `PREFIX`.

    Without a network, what was fetched before is used.

    Args:
        name: `PREFIX` and a `NAME`; or any path or URL.
        needed: files that the repository must hold.
        others: files that come with them where they are there. Nothing else is fetched.

    Raises:
        UserError: there is no such repository, it has not all that is needed, or the hub can't be reached.
    """
    if not name.startswith(PREFIX):
        return None
    found = NAME.fullmatch(name.removeprefix(PREFIX))
    if found is None:
        raise UserError(f"{name}: not a repository of the Hugging Face hub; write {PREFIX}owner/name[@revision]")
    from huggingface_hub import snapshot_download

    with asking(f"{name}:"):
        folder = snapshot_download(found["repo"], revision=found["revision"], allow_patterns=[*needed, *others])
    if missing := [file for file in needed if not Path(folder, file).is_file()]:
        raise UserError(f"{name}: no run of syncclip is in that repository of the hub, as it has no {few(missing)}")
    return folder


def pinned(name: str, folder: str) -> str:
    """The name of the very commit that `fetched` put into a folder."""
    return f"{name.partition('@')[0]}@{Path(folder).name}"


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Ask the hub without its bars and warnings.

    Args:
        what: which the sentence begins with that tells of a refusal.

    Raises:
        UserError: the hub can't be reached, or refuses.
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
        raise UserError(f"{what} it can be no name on the hub; write owner/name, or check the path") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{what} the repository on the hub has no such revision; check what follows the @") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{what} the hub has no such repository, or a private one; check the name, or {LOGIN}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise UserError(f"{what} the hub refuses ({first_line(error)}); {LOGIN} as who may, or try later") from error
    except Exception as error:  # no route, no name server, a proxy's refusal: each HTTP library has its own errors
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{what} the hub can't be reached ({reason}); check path and network") from error
    finally:
        library.setLevel(level)
        if bars:
            enable_progress_bars()
