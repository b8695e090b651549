"""Labels of Ray nodes, such as `ray.io/market-type: spot`, and selectors of nodes by their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(pattern=rf"^(?:[A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_LABEL}$")]
LabelValue = Annotated[str, Field(pattern=rf"^!?{_LABEL}$")]
LabelSelector = dict[LabelKey, LabelValue]
"""Mapping from labels to required values, or to "!value" to exclude a value."""


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether a node's labels match a label selector."""
    return all((labels.get(key) == value.removeprefix("!")) != value.startswith("!") for key, value in selector.items())


def terms(selector: Mapping[str, str]) -> str:
    """Format a label selector for a message, such as "ray.io/market-type=spot, gpu!=t4"."""
    return ", ".join(
        f"{key}{'!=' if value.startswith('!') else '='}{value.removeprefix('!')}" for key, value in selector.items()
    )
