"""An image at a web address that somebody else names: nothing of this network can be asked for by it."""

from __future__ import annotations

import ipaddress
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from syncclip.core.settings import UserError
from syncclip.core.text import size

SECONDS = 10.0
"""For each step of an answer: the connection, its beginning, a piece of it."""


def fetch(url: str, most: int) -> bytes:
    """What a public server answers at an http or https address; no redirection is followed and no proxy used.

    Args:
        most: bytes.

    Raises:
        UserError: the address leads elsewhere, as to this machine or its network, or there is no such image.
    """
    try:
        parts = urlsplit(url)
        kind = {"http": HTTPConnection, "https": HTTPSConnection}.get(parts.scheme)
        if kind is None or not parts.hostname:
            raise UserError("url: give an address that begins with http:// or https://")
        with closing(kind(parts.hostname, parts.port, timeout=SECONDS)) as connection:
            connection.connect()
            # Of the connection itself, for a name may stand for another address a moment later.
            if not ipaddress.ip_address(connection.sock.getpeername()[0].partition("%")[0]).is_global:
                raise UserError("url: its server is not on the public internet; send the image itself")
            connection.request("GET", f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}")
            answer = connection.getresponse()
            if answer.status != 200:
                raise UserError(f"url: its server answers {answer.status}; give the address of the image itself")
            data: bytes = answer.read(most + 1)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("url: no server answers there; correct the address") from error
    if len(data) > most:
        raise UserError(f"url: more than {size(most)}, which is the limit; scale the image down")
    return data
