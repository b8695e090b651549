"""Formatting of counts, quantities and names in messages; tables for the terminal and for Markdown."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from syncclip.core.secrets import redacted

if TYPE_CHECKING:
    from rich.table import Column, Table

CUT, LONGEST = 200, 2000
"""Maximum characters of a value in a message, and of a message."""

LONGEST_WORD = 24
"""Maximum characters of a word in a table that is never broken."""

JOINERS = "\u200c\u200d"
"""Zero-width joiners, used in some scripts and in emoji."""
_ASCII = "".join(map(chr, range(32, 127)))
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of characters that control a terminal, reorder or hide text, end a line, or are surrogates."""


def install_command(extra: str, checkout: Path = Path(__file__).parents[2]) -> str:
    """Return the command that installs an optional dependency group of this package.

    The command contains the path of the current checkout, or ".", which works before a release, too.
    """
    if (checkout / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{checkout}[{extra}]')}"
    return f"pip install -e '.[{extra}]' # in a checkout of syncclip"


def printable(text: str, keep: str = "") -> str:
    """Escape control characters in a text for a terminal, log or page, and mask secrets.

    Args:
        text: may come from an untrusted file.
        keep: characters that are not escaped, such as line ends.
    """
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
    """Percent-encode all but printable ASCII characters."""
    return quote(text, safe=_ASCII, errors="surrogateescape")


def cut(text: str, length: int = CUT) -> str:
    """Shorten a long text in its middle, since a message ends with the remedy."""
    text = redacted(text)  # part of a secret would not be recognised
    return text if len(text) <= length else f"{text[: length // 2]}…{text[1 - length // 2 :]}"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 shard`, `1,234 shards`; `many` where the plural isn't `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def few(values: Iterable[object]) -> str:
    """The first three of some values, and an ellipsis if there are more: `1, 2, 3, …`."""
    values = list(values)
    return ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")


def percent(share: float) -> str:
    """A share of 1 as a whole percentage: `93 %`."""
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Time in its two largest units: `42 s`, `7 min 5 s`, `3 h 20 min`, `2 d 5 h`; the second one is left out at 0."""
    rest = max(0, round(seconds))
    for unit, length, smaller, fraction in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rest >= length:
            whole, part = rest // length, rest % length // fraction
            return f"{whole:,} {unit} {part} {smaller}" if part else f"{whole:,} {unit}"
    return f"{rest} s"


def size(count: int) -> str:
    """Bytes in decimal units: `1.4 MB`."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


ARTICLE = "{a}"
"""Placeholder of a template for a class name with its article."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the known name that begins with `name`, else the most similar one; None if none is similar."""
    names = list(names)
    completions = [candidate for candidate in names if name and candidate.startswith(name)]
    return next(iter(completions or difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)


def first_difference(classnames: Sequence[str], others: Sequence[str]) -> str:
    """Return ` (class 1 is 'a', not 'b')` for a message; "" if one list begins with the other."""
    pairs = enumerate(zip(classnames, others, strict=False))
    return next((f" (class {label} is {a!r}, not {b!r})" for label, (a, b) in pairs if a != b), "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the remedy for an unknown name: `did you mean 'x'?`, or all known names if none is similar."""
    names = list(names)
    near = nearest(name, names)
    return f"there are {', '.join(names)}" if near is None else f"did you mean {near!r}?"


def signed(*values: float) -> str:
    """Format a number with its sign, as a true minus; two numbers as an interval: `−0.3 to +2.0`."""
    rounded = (round(value, 1) for value in values)
    return " to ".join(f"{value:+.1f}".replace("-", "−") if value else "0.0" for value in rounded)


def coverage(level: float) -> str:
    """Format the coverage of an interval with a non-breaking space: 0.95 -> "95 %"."""
    return f"{100 * level:g}\u00a0%"


def thousands(value: float) -> str:
    """Format a count in groups of three digits: 12 345."""
    return f"{int(value):,}".replace(",", " ")


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message."""
    return cut((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip("."))


def show(text: Table | str, keys: int = 1) -> None:
    """Print a text or table to stdout; a table as wide as the terminal, or 200 columns without one.

    Args:
        keys: number of first columns that each part of a too wide table repeats.
    """
    if isinstance(text, str):
        sys.stdout.write(printable(text, keep="\n") + "\n")
        sys.stdout.flush()  # an error of a full disk is raised here
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for part in _parts(text, console.width, keys):
        console.print(part, highlight=False, markup=False, emoji=False)


def _parts(table: Table, width: int, keys: int) -> Iterator[Table]:
    """Split a table into parts that fit the terminal: the key columns with as many others as possible.

    No column is narrower than its longest word.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    def natural(column: Column) -> int:
        texts = (str(cell) for cell in (column.header, *column.cells))
        return max(cell_len(line) for text in texts for line in text.split("\n"))

    if sum(natural(column) + 3 for column in table.columns) < width:
        yield table
        return
    first, rest = table.columns[:keys], table.columns[keys:]
    title = table.title
    while first:
        chosen, room = list(first), width - 1 - sum((column.min_width or 1) + 3 for column in first)
        while rest and (len(chosen) == len(first) or (rest[0].min_width or 1) + 3 <= room):
            room -= (rest[0].min_width or 1) + 3
            chosen.append(rest.pop(0))
        part = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        title = Text("")
        for column in chosen:
            least = column.min_width or 1
            more = max(0, min(room, natural(column) - least))
            room -= more
            part.columns.append(replace(column, width=least + more, _index=len(part.columns)))
        part.rows = table.rows
        yield part
        if not rest:
            return


def _least_width(cells: Iterable[str]) -> int:
    """Return the width at which no word is broken, nor a number with its error."""
    from rich.cells import cell_len

    return max((cell_len(word) for cell in cells for word in ([cell] if "±" in cell else cell.split())), default=1)


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Make a table with right-aligned numbers; None is an empty cell, floats have one decimal."""
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    shown = Table(title=Text(printable(title)), title_justify="left", title_style="bold", header_style="bold")
    for column, heading in enumerate(headings):
        numbers = all(isinstance(row[column], int | float | None) for row in rows)
        least = min(LONGEST_WORD, _least_width([heading, *(_cell(row[column]) for row in rows)]))
        justify: Literal["left", "right"] = "right" if numbers and rows else "left"
        shown.add_column(Text(printable(heading)), justify=justify, min_width=least, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(_cell(value), "\n")) for value in row))  # never markup
    return shown


def markdown_grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table as Markdown."""
    marks = ["---"] * len(headings)
    return "\n".join(f"| {' | '.join(map(markdown_text, row))} |" for row in [headings, marks, *rows])


def markdown_text(text: str) -> str:
    """Escape an untrusted text for a line or cell of Markdown: no link, image or element."""
    return re.sub(r"[\[\]|]", r"\\\g<0>", printable(text)).replace("<", "&lt;")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
