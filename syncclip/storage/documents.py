"""Small JSON files of ours, each a pydantic model: what a set, a study or a run tells of itself."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from syncclip.settings import UserError, first_complaint
from syncclip.storage.files import exists, read_bytes, write_bytes

Document = TypeVar("Document", bound=BaseModel)


def read_document(url: str, kind: type[Document], remedy: str) -> Document | None:
    """The document at `url`; None where there is none.

    Raises:
        UserError: it is damaged, or of another version; ends with `remedy`, which says what to do.
    """
    if not exists(url):
        return None
    try:
        return kind.model_validate_json(read_bytes(url))
    except ValidationError as error:
        raise UserError(
            f"{url} can't be read by this version of syncclip ({first_complaint(error)}); {remedy}"
        ) from error


def write_document(url: str, document: BaseModel) -> None:
    """Write a document, whole or not at all."""
    write_bytes(url, (document.model_dump_json(indent=1) + "\n").encode())
