"""How the report writes numbers: signs, coverages, thousands."""

from __future__ import annotations


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a real minus."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def coverage(level: float) -> str:
    """The coverage of an interval: 0.95 -> "95 %", kept on one line."""
    return f"{100 * level:g}\u00a0%"


def thousands(value: float) -> str:
    """A count in groups of three digits: 12 345."""
    return f"{int(value):,}".replace(",", " ")
