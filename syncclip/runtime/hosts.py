"""Host names and addresses."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress


def host_of(header: str) -> str:
    """Return the name or address in a Host header, without port and brackets; "" for a malformed header."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::[0-9]*)?", header)
    return (match[1] or match[2]) if match else ""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address refers to this machine's loopback interface."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"
