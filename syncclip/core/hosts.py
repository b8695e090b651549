"""Host names and addresses."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from urllib.parse import urlsplit


def host_of(header: str) -> str:
    """The name or address in a Host header, without port and brackets; empty where it is malformed."""
    with suppress(ValueError):
        return urlsplit(f"//{header}").hostname or ""
    return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, which no other machine reaches."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"
