"""Formatting of quantities and names in messages, and of tables for the terminal and Markdown."""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO
from urllib.parse import quote

from syncclip.core.secrets import redacted

if TYPE_CHECKING:
    from rich.table import Table

CUT, LONGEST = 200, 2000
"""Maximum lengths, in characters, of a value in a message and of the whole message."""

LONGEST_WORD = 24
"""Maximum word length in table cells, in characters; longer words are broken."""

_UNBROKEN = re.compile(r"\d ±|\d \(.*\d\)$")
"""Cells with a number and its error or interval, which are kept on a line."""

JOINERS = "\u200c\u200d"
"""Zero-width joiners, which some scripts and emoji require."""
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of surrogates, line separators, control characters, and characters that reorder or hide text."""
MISSING = "–"
"""Content of empty table cells."""
ARTICLE = "{a}"
"""Placeholder in a template for a class name with an indefinite article."""


def install_command(extra: str, checkout: Path = Path(__file__).parents[2]) -> str:
    """Return the command that installs an optional dependency group of this package from a checkout."""
    if (checkout / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{checkout}[{extra}]')}"
    return f"pip install -e '.[{extra}]' # in a checkout of syncclip"


def printable(text: str, keep: str = "") -> str:
    """Mask secrets in untrusted text, and escape control characters except those in `keep`."""
    text = redacted(text)
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in UNPRINTABLE and character not in keep + JOINERS
        else character
        for character in text
    )


def as_ascii(text: str) -> str:
    """Percent-encode all characters except printable ASCII."""
    return quote(text, safe="".join(map(chr, range(32, 127))), errors="surrogateescape")


def cut(text: str, length: int = CUT) -> str:
    """Shorten long text in the middle, because the end of a message contains the fix."""
    text = redacted(text)  # first, since a shortened secret would not be recognised
    return text if len(text) <= length else f"{text[: length // 2]}…{text[1 - length // 2 :]}"


def counted(count: int, one: str, many: str = "") -> str:
    """Format a count with a noun: `1 shard`, `1,234 shards`; `many` overrides the regular plural."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def few(values: Iterable[object]) -> str:
    """Join the first three values, with an ellipsis if there are more: `1, 2, 3, …`."""
    values = list(values)
    return ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")


def short_path(path: str) -> str:
    """Return the last two components of a path or URL: `cat/1.jpg`."""
    return "/".join(path.rsplit("/", 2)[-2:])


def from_here(path: str) -> str:
    """Return a path relative to the working directory if the path is inside it; otherwise, and for a URL, unchanged."""
    return path.removeprefix(f"{Path.cwd()}/")


def percent(share: float) -> str:
    """Format a fraction as a percentage without decimals: 0.93 -> `93 %`."""
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units: `42 s`, `7 min 5 s`, `3 h 20 min`, `3 h`, `2 d 5 h`."""
    rest = max(0, round(seconds))
    for unit, length, smaller, fraction in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rest >= length:
            count, part = rest // length, rest % length // fraction
            return f"{count:,} {unit} {part} {smaller}" if part else f"{count:,} {unit}"
    return f"{rest} s"


def size(count: int) -> str:
    """Format a number of bytes in decimal units: `1.4 MB`."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the first of `names` that begins with `name`, else the most similar name; None if no name is similar."""
    names = list(names)
    completions = [candidate for candidate in names if name and candidate.startswith(name)]
    return next(iter(completions or difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)


def first_difference(classnames: Sequence[str], others: Sequence[str]) -> str:
    """Describe where two class lists differ: ` (class 1 is 'a', not 'b')`; "" if one list is a prefix of the other."""
    pairs = enumerate(zip(classnames, others, strict=False))
    return next((f" (class {label} is {a!r}, not {b!r})" for label, (a, b) in pairs if a != b), "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Suggest a fix for an unknown name: `did you mean 'x'?`, or the available names if no name is similar."""
    names = list(names)
    near = nearest(name, names)
    return f"available: {', '.join(names)}" if near is None else f"did you mean {near!r}?"


def signed(*values: float) -> str:
    """Format a number with a sign and a Unicode minus, or two numbers as an interval: `−0.3 to +2.0`."""
    rounded = (round(value, 1) for value in values)
    return " to ".join(f"{value:+.1f}".replace("-", "−") if value else "0.0" for value in rounded)


def readable_name(classname: str) -> str:
    """Return a class name with underscores and whitespace replaced by single spaces."""
    return " ".join(classname.replace("_", " ").split())


def coverage(level: float) -> str:
    """Format a confidence level as a percentage with a non-breaking space: 0.95 -> "95 %"."""
    return f"{100 * level:g}\u00a0%"


def thousands(value: float) -> str:
    """Format a count with its digits in groups of three: 12 345."""
    return f"{int(value):,}".replace(",", " ")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return cut((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip("."))


def wrapped(text: str, stream: TextIO) -> str:
    """Break the lines of a message at spaces if the stream is a terminal, but not within commands in backticks."""
    if not stream.isatty():
        return text
    width = max(40, shutil.get_terminal_size().columns)
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for word in re.findall(r"\s*(?:`[^`]*`|\S)+", line):
            if lines[-1] and len(lines[-1]) + len(word) > width:
                lines.append("  " + word.lstrip())
            else:
                lines[-1] += word
    return "\n".join(lines)


def show(text: Table | str, keys: int = 1) -> None:
    """Print text or a table to stdout; tables are 200 characters wide if stdout is not a terminal.

    Args:
        keys: number of leading columns to repeat if a table is split to fit the terminal.
    """
    if isinstance(text, str):
        sys.stdout.write(wrapped(printable(text, keep="\n"), sys.stdout) + "\n")
        sys.stdout.flush()  # raises an error if the disk is full
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    without_caption = copy(text)
    without_caption.caption = None  # rich would wrap it at the width of the table
    for part in _parts(without_caption, console.width, keys):
        console.print(part, highlight=False, markup=False, emoji=False)
    if text.caption:
        show(str(text.caption))


def _parts(table: Table, width: int, keys: int) -> Iterator[Table]:
    """Split a table into parts that fit the terminal without breaking words; each part contains the key columns."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    full_widths = []
    for column in table.columns:
        text = "\n".join(map(str, (column.header, *column.cells)))
        full_widths.append(max(map(cell_len, text.split("\n"))))
    if sum(full_widths) + 3 * len(full_widths) < width:
        yield table
        return
    first, rest = table.columns[:keys], table.columns[keys:]
    if sum(full_widths[:keys]) + 3 * keys < width / 2:
        first = [replace(column, min_width=full_widths[column._index]) for column in first]
    title = table.title
    while first:
        columns, free = list(first), width - 1 - sum((column.min_width or 1) + 3 for column in first)
        while rest and (len(columns) == len(first) or (rest[0].min_width or 1) + 3 <= free):
            free -= (rest[0].min_width or 1) + 3
            columns.append(rest.pop(0))
        part = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        title = Text("")
        for column in columns:
            narrow = column.min_width or 1
            extra = max(0, min(free, full_widths[column._index] - narrow))
            free -= extra
            part.columns.append(replace(column, width=narrow + extra, _index=len(part.columns)))
        part.rows = table.rows
        yield part
        if not rest:
            return


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> Table:
    """Build a table with right-aligned numbers, one decimal place for floats, and `MISSING` for None and ""."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    built = Table(title=Text(printable(title)), title_justify="left", title_style="bold", header_style="bold")
    built.caption = caption or None
    for column, heading in enumerate(headings):
        numbers = all(isinstance(row[column], int | float | None) for row in rows)
        cells = [heading, *(_cell(row[column]) for row in rows)]
        words = [word for cell in cells for word in ([cell] if _UNBROKEN.search(cell) else cell.split())]
        justify: Literal["left", "right"] = "right" if numbers and rows else "left"
        min_width = min(LONGEST_WORD, max(map(cell_len, words), default=1))
        built.add_column(Text(printable(heading)), justify=justify, min_width=min_width, overflow="fold")
    for row in rows:
        built.add_row(*(Text(printable(_cell(value), "\n")) for value in row))  # never markup
    return built


def markdown_grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table as Markdown, with `MISSING` in empty cells."""
    lines = [headings, ["---"] * len(headings), *([cell or MISSING for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)


def markdown_text(text: str) -> str:
    """Escape untrusted text for a Markdown line or cell, to prevent links, images and HTML elements."""
    return re.sub(r"[\[\]|]", r"\\\g<0>", printable(text)).replace("<", "&lt;")


def _cell(value: object) -> str:
    if value in (None, ""):
        return MISSING
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
