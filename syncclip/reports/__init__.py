"""The report: a self-contained, interactive HTML page on a study, a run or a synthetic set, and a terminal table."""

from __future__ import annotations

from syncclip import storage
from syncclip.reports.inputs import read_sources
from syncclip.reports.page import render_page
from syncclip.reports.table import summary_table

REPORT = "report.html"


def report(folder: str) -> str:
    """Write `report.html` into a folder, from whatever is there; what is missing is left out of the page.

    The page works from a file, without a network. After a crash either the old page is there or the new one.

    Args:
        folder: path or URL of a study, a single run, or a synthetic set.

    Returns:
        The path or URL of the page.

    Raises:
        UserError: the folder holds none of these, or may not be written to.
    """
    found = read_sources(folder)
    place = storage.join(found.url, REPORT)
    storage.write_bytes(place, render_page(found).encode())
    return place


__all__ = ["REPORT", "report", "summary_table"]
