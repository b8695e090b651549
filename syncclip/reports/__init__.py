"""From the folder of a study, a run or a synthetic set to one self-contained HTML page and a table for the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from syncclip import storage
from syncclip.reports.inputs import read_inputs
from syncclip.reports.numbers import gather_numbers
from syncclip.reports.page import render_page
from syncclip.reports.table import terminal_table

REPORT = "report.html"


@dataclass(frozen=True)
class StudyReport:
    """A report that was written: the path or URL of its page, and its summary for `rich.print`."""

    url: str
    table: Table


def write_report(folder: str) -> StudyReport:
    """Write `report.html` into a folder, from whatever is there; what is missing is left out of the page.

    The page works from a file, without a network. After a crash either the old page is there or the new one.

    Args:
        folder: path or URL of a study, a single run, or a synthetic set.

    Raises:
        UserError: the folder holds none of these, or may not be written to.
    """
    found = read_inputs(folder)
    numbers = gather_numbers(found)
    url = storage.join(found.url, REPORT)
    storage.write_bytes(url, render_page(found, numbers).encode())
    return StudyReport(url, terminal_table(found, numbers))


def report(folder: str) -> str:
    """`write_report`, of which only the path or URL of the page is returned."""
    return write_report(folder).url


__all__ = ["REPORT", "StudyReport", "report", "write_report"]
