"""The Hugging Face hub: which commit a name stands for, with a sentence where nobody can say."""

from __future__ import annotations

import os
from pathlib import Path

from syncclip.settings import UserError

HUB_TIMEOUT = 5.0
"""Seconds that the hub may take to answer whether it knows a name."""


def commit_on_hub(name: str, revision: str | None, file: str, what: str) -> str:
    """The commit that `name` stands for: that of the local cache, which is asked first, else the hub's.

    Args:
        name: a repository, such as `stabilityai/sdxl-turbo`.
        revision: branch, tag or commit; None for the main branch.
        file: one that the repository must hold.
        what: how messages call it, such as "generator 'stabilityai/sdxl-turbo'".

    Raises:
        UserError: it is nowhere, or the hub can't be asked; after `HUB_TIMEOUT` at most.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return cached(name, revision, file).parents[file.count("/")].name
    except HFValidationError as error:
        raise UserError(f"{what}: there is no such folder, and it is no name of the hub either") from error
    except OSError:
        pass  # not in the cache
    missing = f"{what}: there is no such folder, it is not in the local Hugging Face cache, and"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise UserError(f"{missing} HF_HUB_OFFLINE forbids asking the hub; correct the name or unset it")
    try:
        return huggingface_hub.HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT).sha or ""
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise UserError(f"{missing} the hub says: {first_line(error)}; correct the name or log in") from error
    except Exception as error:  # no route, no name server, a proxy's refusal: each HTTP library has its own errors
        raise UserError(
            f"{missing} the hub can't be reached ({first_line(error)}); correct the name, or download it where there "
            "is a network and give the folder"
        ) from error


def cached(name: str, revision: str | None, file: str) -> Path:
    """Where a file of a repository lies in the local cache; the hub isn't asked.

    Raises:
        OSError: nowhere.
        ValueError: `name` can be no repository's.
    """
    import huggingface_hub

    return Path(huggingface_hub.hf_hub_download(name, file, revision=revision, local_files_only=True))


def first_line(error: BaseException) -> str:
    """The first line of a library's message, for a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
